"""The tasks of one job as small files: each claimed by one process, done once, its result written whole.

Tasks have numbers from 1. A result is any bytes, in a file of its own in `results/`; a claim is a locked file in
`claims/`; both may lie on a disk that several machines share. A claim dies with its process. Where a lock does not
reach another machine, two may do the same task: the first result counts, so it must be the same whoever does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpclean.errors import SetupError
from dpclean.jobs.durable import write_durably, writing
from dpclean.jobs.lock import try_lock

FOLDER_OF = 1000  # tasks in a folder: directories of a million files are slow everywhere


def new_worker() -> str:
    """A name for a process that no other one has, on this machine or another, in this container or another."""
    return secrets.token_hex(16)


class Tasks:
    """The tasks of a job in a folder. worker: see new_worker."""

    noun = "task"  # what users call one

    def __init__(self, folder: Path, *, worker: str = "") -> None:
        self.folder = folder
        self.worker = worker or new_worker()

    def make_folders(self) -> None:
        """What the files below go into."""
        for name in ("results", "claims", "failed"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def path(self, task: int) -> Path:
        """The file of a task's result."""
        return self.folder / "results" / f"{task // FOLDER_OF:04d}" / f"{task:07d}"

    def reason_path(self, task: int) -> Path:
        """The file that says why a task failed."""
        return self.folder / "failed" / f"{task:07d}.txt"

    def attempts_path(self, task: int) -> Path:
        """The file that notes that a task ended its process once."""
        return self.folder / "failed" / f"{task:07d}.attempt"

    def missing(self, count: int) -> list[int]:
        """The tasks up to that number that nobody has finished, in order."""
        done = self.done()
        return [task for task in range(1, count + 1) if task not in done]

    def done(self) -> set[int]:
        """The tasks that are finished, those that failed among them."""
        names = (path.name for path in (self.folder / "results").glob("*/*"))
        return {int(name) for name in names if name.isdecimal()}

    def failed(self) -> dict[int, str]:
        """Why tasks failed, by number."""
        return {int(path.stem): path.read_text("utf-8") for path in sorted((self.folder / "failed").glob("*.txt"))}

    def prefix(self) -> int:
        """The largest t such that tasks 1..t are all finished."""
        done, t = self.done(), 0
        while t + 1 in done:
            t += 1
        return t

    @contextmanager
    def claim(self, task: int) -> Iterator[bool]:
        """Whether this process may do the task: it is not finished, and nobody is at it."""
        path = self.folder / "claims" / f"{task:07d}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # another command has completed the job meanwhile
            yield False
            return
        try:
            if not try_lock(handle):
                yield False
                return
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps({"worker": self.worker}).encode(), 0)
            yield not self.path(task).exists()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        finally:
            os.close(handle)

    def claimed_by(self, worker: str) -> int | None:
        """The task that a process, now dead, had claimed."""
        for path in (self.folder / "claims").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(path.read_bytes()) == {"worker": worker}:
                    return int(path.name)
        return None

    def finish(self, task: int, result: bytes) -> bool:
        """Commit a result; False if there was one already, or the job is complete. Raises SetupError."""
        try:
            with writing(self.path(task).parent):
                self.path(task).parent.mkdir(exist_ok=True)
            # never over another's: the first to finish a task has done it
            return write_durably(self.path(task), result, replace=False)
        except SetupError:
            if not self.folder.exists():  # another command has completed the job meanwhile
                return False
            raise

    def give_up(self, task: int, reason: str) -> None:
        """Commit a task that failed twice, with an empty result."""
        self.note(self.reason_path(task), reason)
        self.finish(task, b"")

    def lost(self, task: int, reason: str) -> None:
        """What to do with a task that ended its process twice: it has failed."""
        self.give_up(task, reason)

    def note(self, path: Path, text: str) -> None:
        """Write a small text file whole."""
        write_durably(path, text.encode("utf-8", "surrogateescape"))
