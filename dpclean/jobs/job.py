"""What every long command is: a job that is begun, gone on with after a kill, and finished; told in one way.

A command says what is its own in a Job; `run` is the story of all of them.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from dpclean.errors import ConflictError, DpcleanError
from dpclean.jobs.record import Json, Record, differences, read_record, write_record
from dpclean.jobs.signals import first_signal
from dpclean.jobs.staging import Staging
from dpclean.progress import Progress, Show, shown_as_asked

Result = TypeVar("Result")
Tell = Callable[[Progress], None]


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
    """

    kind: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]

    def __init__(self, out: Path) -> None:
        self.staging = Staging(out)
        self.out = self.staging.out

    @abstractmethod
    def inputs(self) -> Sequence[str | os.PathLike[str] | None]:
        """What is read: OUT lies neither in nor around any of it. Names of other things, and None, are none."""

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

    def refuse_others(self, how: str, begun: Json) -> None:
        """Raises ConflictError where these are not the parameters of this job."""
        if differing := differences(begun, self.parameters()):
            raise ConflictError(
                f"{str(self.out)!r} {how} with {differing[0]}; this command asks for {differing[1]}",
                "choose another --out, or --overwrite to start again",
            )


def run(job: Job[Result], *, overwrite: bool, progress: Show | bool | None = None) -> Result:
    """Begin a job, go on with it, or find it complete.

    Raises ConflictError for an OUT that is something else, or was begun with something else, and what the job raises.
    """
    begun, staging = time.monotonic(), job.staging
    staging.check_apart(*job.inputs())
    with shown_as_asked(progress) as tell, staging:
        complete = _is_complete(job, overwrite)
        if complete and not job.reopens():
            return job.result(Call(True, time.monotonic() - begun))
        try:
            gained = _worked(job, None if overwrite else _begun(job), tell, keep_key=complete)
        except Hopeless as error:
            staging.discard(keep_key=complete)
            raise error.cause from error
        if gained:
            staging.commit()
        else:
            staging.discard(keep_key=complete)
    return job.result(Call(not gained, time.monotonic() - begun))


def _worked(job: Job[Result], record: Record | None, tell: Tell, *, keep_key: bool) -> bool:
    """From what was begun, or from nothing, to all that OUT is to hold; False where nothing came of it."""
    with job.ready(record):
        if record is None:
            environment = job.environment()
            job.staging.start(keep_key=keep_key)
            record = Record(job.kind, job.parameters(), environment, job.begin())
            write_record(job.staging.record, record)
        elif differing := differences(record.environment, job.environment()):
            raise ConflictError(
                f"{str(job.out)!r} was begun with {differing[0]}; here it would go on with {differing[1]}",
                "go on where it was begun, or --overwrite to start again",
            )
        with first_signal() as stop:
            gained = job.work(record, stop, tell)
        if gained:
            job.save(record)
        return gained


def _is_complete(job: Job[Result], overwrite: bool) -> bool:
    """Whether OUT is complete and not to be replaced. Raises ConflictError where it is something else."""
    if not job.out.exists():
        return False
    if not job.out.is_dir():
        raise ConflictError(f"{str(job.out)!r} is a file", "choose another --out")
    if not all((job.out / name).is_file() for name in job.marks):
        if any(job.out.iterdir()):
            message = f"{str(job.out)!r} is not empty and was not made by 'dpclean {job.kind}'"
            raise ConflictError(message, "choose another --out")
        return False
    if not overwrite:
        job.refuse_others("was made", job.made_with())
    return not overwrite


def _begun(job: Job[Result]) -> Record | None:
    """What an interrupted command left to go on with. Raises ConflictError where it is of another kind."""
    record = read_record(job.staging.record) if job.staging.partial.exists() else None
    if record is not None and record.kind != job.kind:
        raise ConflictError(
            f"{str(job.out)!r} was begun by 'dpclean {record.kind}'",
            "choose another --out, or --overwrite to start again",
        )
    return record if record is not None and job.goes_on(record) else None
