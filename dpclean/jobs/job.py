"""What every long command is: a job that is begun, gone on with after a kill, and finished; told in one way.

A command says what is its own in a Job; `run` is the story of all of them.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from dpclean.errors import ConflictError, DpcleanError
from dpclean.jobs.record import Json, Record, differences, write_record
from dpclean.jobs.signals import first_signal
from dpclean.jobs.staging import Staging
from dpclean.progress import Progress, Show, shown_as_asked

Result = TypeVar("Result")
Tell = Callable[[Progress], None]
COMPLETE = "OUT is complete already, so nothing would be done"  # of a look ahead
LOCK_SECONDS = 600.0  # how long to wait for another command that begins or saves the same job


@dataclass(frozen=True)
class Call:
    """What one call of a command did. seconds: wall time."""

    already_complete: bool
    seconds: float


class Hopeless(Exception):
    """The work cannot come to an end, whoever goes on with it: what was begun is removed, and the cause is raised."""

    def __init__(self, cause: DpcleanError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Job(ABC, Generic[Result]):
    """One command's job, and what `run` asks of it.

    kind: its words on the command line. marks: the files by which a folder is known as a complete OUT of this kind.
    shared: several commands may do the work at once; each begins and saves it alone.
    """

    kind: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    shared: ClassVar[bool] = False

    def __init__(self, out: Path) -> None:
        self.staging = Staging(out)
        self.out = self.staging.out

    @abstractmethod
    def inputs(self) -> Iterable[str | os.PathLike[str] | None]:
        """What is read: OUT lies neither in nor around any of it. Names of other things, and None, are none.

        Each is compared before the next is asked for.
        """

    @abstractmethod
    def parameters(self) -> Json:
        """What decides the result: a finished OUT and one that was begun must have the same."""

    @abstractmethod
    def environment(self) -> Json:
        """What decides the bytes beside it: one that was begun must have the same. Asked for inside `ready`."""

    @abstractmethod
    def made_with(self) -> Json:
        """The parameters that a complete OUT names."""

    @abstractmethod
    def begin(self) -> Json:
        """Fix what is worked on, then draw the key, into empty folders; what was found out is recorded."""

    @abstractmethod
    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        """Do what is not done yet; False where nothing came of it, and OUT is to stay as it is.

        Raises Interrupted soon after stop is set, and Hopeless.
        """

    @abstractmethod
    def save(self, record: Record) -> None:
        """Write the rest of what OUT is to hold."""

    @abstractmethod
    def result(self, call: Call) -> Result:
        """What is told of the OUT that is there."""

    def foresee(self, *, overwrite: bool) -> bool:
        """Whether `run` would find OUT complete and do nothing. Raises ConflictError where it would, for where OUT lies
        and what it is, was made with or was begun with. Touches nothing.
        """
        for given in self.inputs():
            self.staging.check_apart(given)
        if _is_complete(self, overwrite):
            return not self.reopens()
        if not overwrite and (record := _begun_as(self)) is not None:
            self.refuse_others("was begun", record.parameters)
        return False

    # -- what only some have

    def reopens(self) -> bool:
        """Whether there is work to do on a complete OUT with these parameters."""
        return False

    def goes_on(self, record: Record) -> bool:
        """Whether what was begun is gone on with. Raises ConflictError where it was begun with something else."""
        self.refuse_others("was begun", record.parameters)
        return True

    def ready(self, record: Record | None) -> AbstractContextManager[object]:
        """All that the work needs, in place; record: what was begun, None before."""
        return nullcontext()

    def refuse_others(self, how: str, begun: Json, asked: Json | None = None) -> None:
        """Raises ConflictError where these are not the parameters of this job, or what else was asked."""
        if differing := differences(begun, self.parameters() if asked is None else asked):
            raise ConflictError(
                f"{str(self.out)!r} {how} with {differing[0]}; this command asks for {differing[1]}",
                self.ways_out(begun),
            )

    def ways_out(self, begun: Json) -> str:
        """What to do about other parameters."""
        return "choose another --out, or --overwrite to start again"

    def refuse_elsewhere(self, begun: Json) -> None:
        """Raises ConflictError where this is not the environment of this job."""
        if differing := differences(begun, self.environment()):
            raise ConflictError(
                f"{str(self.out)!r} was begun with {differing[0]}; here it would go on with {differing[1]}",
                "go on where it was begun, without options that choose otherwise, or --overwrite to start again",
            )


def run(job: Job[Result], *, overwrite: bool, progress: Show | bool | None = None) -> Result:
    """Begin a job, go on with it, or find it complete.

    Raises ConflictError for an OUT that is something else, or was begun with something else, and what the job raises.
    """
    begun, staging = time.monotonic(), job.staging
    for given in job.inputs():
        staging.check_apart(given)
    if job.shared:
        job.parameters()  # what takes long is read before anybody has to wait
    with shown_as_asked(progress) as tell, ExitStack() as lock:
        lock.enter_context(_locked(job))
        complete = _is_complete(job, overwrite)
        if complete and not job.reopens():
            return job.result(Call(True, time.monotonic() - begun))
        try:
            gained = _worked(job, None if overwrite else _begun(job), lock, tell, keep_key=complete)
        except Hopeless as error:
            if job.shared:
                lock.enter_context(_locked(job))
            if not (job.shared and staging.is_busy()):  # else whoever else is at it finds out as well
                staging.discard(keep_key=complete)
            raise error.cause from error
        if gained:
            staging.commit()
        elif not job.shared:
            staging.discard(keep_key=complete)
    return job.result(Call(not gained and not job.shared, time.monotonic() - begun))


def _worked(job: Job[Result], record: Record | None, lock: ExitStack, tell: Tell, *, keep_key: bool) -> bool:
    """From what was begun, or from nothing, to all that OUT is to hold; False where nothing came of it.

    lock: is held at the beginning and at the end, and but for a shared job all the time.
    """
    staging = job.staging
    with job.ready(record):
        if record is None:
            staging.check_idle()
            parameters, environment = job.parameters(), job.environment()  # what they refuse leaves nothing behind
            staging.start(keep_key=keep_key)
            record = Record(job.kind, parameters, environment, job.begin())
            write_record(staging.record, record)
        else:
            job.refuse_elsewhere(record.environment)
        with staging.at_work() if job.shared else nullcontext():
            if job.shared:
                lock.close()
            with first_signal() as stop:
                gained = job.work(record, stop, tell)
        if job.shared:
            lock.enter_context(_locked(job))
            gained = staging.begun() is not None  # else another command has made OUT of it meanwhile
        if gained:
            job.save(record)
        return gained


@contextmanager
def _locked(job: Job[Result]) -> Iterator[None]:
    """Alone at the job; another command at the same shared one is waited for, as it will soon let go."""
    deadline = time.monotonic() + LOCK_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(job.staging)
                break
            except ConflictError:
                if not job.shared or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def holds(out: Path, marks: Sequence[str], kind: str) -> bool:
    """Whether OUT is a complete one of a kind; False where it is free. Raises ConflictError where it is another."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise ConflictError(f"{str(out)!r} is a file", "choose another --out")
    if all((out / name).is_file() for name in marks):
        return True
    if any(out.iterdir()):
        message = f"{str(out)!r} is not empty and was not made by 'dpclean {kind}'"
        raise ConflictError(message, "choose another --out")
    return False


def _is_complete(job: Job[Result], overwrite: bool) -> bool:
    """Whether OUT is complete and not to be replaced. Raises ConflictError where it is something else."""
    complete = holds(job.out, job.marks, job.kind) and not overwrite
    if complete:
        job.refuse_others("was made", job.made_with())
    return complete


def _begun(job: Job[Result]) -> Record | None:
    """What an interrupted command left to go on with. Raises ConflictError as _begun_as and goes_on do."""
    record = _begun_as(job)
    return record if record is not None and job.goes_on(record) else None


def _begun_as(job: Job[Result]) -> Record | None:
    """What an interrupted command left. Raises ConflictError where it is of another kind."""
    record = job.staging.begun()
    if record is not None and record.kind != job.kind:
        raise ConflictError(
            f"{str(job.out)!r} was begun by 'dpclean {record.kind}'",
            "choose another --out, or --overwrite to start again",
        )
    return record
