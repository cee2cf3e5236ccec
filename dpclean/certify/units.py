"""The runs of one job as small files: each claimed by one process, written whole, counted once.

A unit is a run by its number. Its vote is a file of its own in `runs/`, its claim a locked file in `claims/`; both may
lie on a disk that several machines share. A claim dies with its process. Where a lock does not reach another machine,
two may do the same run: the first file counts, and as both draw the same streams nothing is gained by either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.certify.votes import record
from dpclean.errors import ConflictError, InputError, SetupError
from dpclean.jobs.durable import write_durably, writing

MAGIC = b"dpclean vote 1\n"
FOLDER_OF = 1000  # runs in a folder: directories of a million files are slow everywhere
RECORD_BYTES = 32


class Units:
    """The runs 1..n of a job in a folder; points is the number of votes in each."""

    def __init__(self, folder: Path, job: str, points: int) -> None:
        self.folder = folder
        self.job = job
        self.points = points

    def make_folders(self) -> None:
        """What the files below go into."""
        for name in ("runs", "claims", "failed"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def path(self, run: int) -> Path:
        """The file of a run's vote."""
        return self.folder / "runs" / f"{run // FOLDER_OF:04d}" / f"{run:07d}.vote"

    def reason_path(self, run: int) -> Path:
        """The file that says why a run has no vote."""
        return self.folder / "failed" / f"{run:07d}.txt"

    def attempts_path(self, run: int) -> Path:
        """The file that notes that a run ended its process once."""
        return self.folder / "failed" / f"{run:07d}.attempt"

    def missing(self, runs: int) -> list[int]:
        """The runs up to that number that nobody has finished, in order."""
        done = self.done()
        return [run for run in range(1, runs + 1) if run not in done]

    def done(self) -> set[int]:
        """The runs that are finished."""
        return {int(path.stem) for path in (self.folder / "runs").glob("*/*.vote")}

    def failed(self) -> dict[int, str]:
        """Why runs have no vote, by run."""
        return {int(path.stem): path.read_text("utf-8") for path in sorted((self.folder / "failed").glob("*.txt"))}

    @contextmanager
    def claim(self, run: int) -> Iterator[bool]:
        """Whether this process may do the run: it is not finished, and nobody is at it."""
        path = self.folder / "claims" / f"{run:07d}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # another command has published the job meanwhile
            yield False
            return
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps({"host": os.uname().nodename, "pid": os.getpid()}).encode(), 0)
            yield not self.path(run).exists()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        finally:
            os.close(handle)

    def claimed_by(self, pid: int) -> int | None:
        """The run that a process of this machine, now dead, had claimed."""
        for path in (self.folder / "claims").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(path.read_bytes()) == {"host": os.uname().nodename, "pid": pid}:
                    return int(path.name)
        return None

    def write(self, run: int, row: NDArray[np.int32]) -> bool:
        """Commit a run's votes [points]; False if it was there already. Raises SetupError where the disk refuses."""
        path = self.path(run)
        votes = np.ascontiguousarray(row, "<i4")
        try:
            with writing(path.parent):
                path.parent.mkdir(exist_ok=True)
            # never over another's: the first to finish a run has done it
            return write_durably(path, MAGIC + record(self.job, run, votes) + votes.tobytes(), replace=False)
        except SetupError:
            if not self.folder.exists():  # another command has published the job meanwhile
                return False
            raise

    def give_up(self, run: int, reason: str) -> None:
        """Commit a run that failed twice: a vote for nobody."""
        self.note(self.reason_path(run), reason)
        self.write(run, np.full(self.points, -1, np.int32))

    def note(self, path: Path, text: str) -> None:
        """Write a small text file whole."""
        write_durably(path, text.encode("utf-8"))

    def read(self, run: int) -> tuple[NDArray[np.int32], bytes]:
        """(votes [points], record [32]) of a finished run.

        Raises InputError for a file that is damaged, ConflictError for a run of another job or of another number.
        """
        data = self.path(run).read_bytes()
        body = data[len(MAGIC) + RECORD_BYTES :]
        if not data.startswith(MAGIC) or len(body) != 4 * self.points:
            raise InputError(f"the vote of run {run} is damaged", f"delete {str(self.path(run))!r} and go on")
        row = np.frombuffer(body, "<i4")
        found = data[len(MAGIC) : len(MAGIC) + RECORD_BYTES]
        if found != record(self.job, run, row):
            raise ConflictError(
                f"the vote in {str(self.path(run))!r} is of another job, of another run, or was edited",
                "delete the file and go on: the run is done again",
            )
        return row.astype(np.int32), found

    def table(self, runs: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(votes [runs, points], records [runs, 32]) of runs 1..runs, all of which are finished."""
        votes = np.empty((runs, self.points), np.int32)
        records = np.empty((runs, RECORD_BYTES), np.uint8)
        for run in range(1, runs + 1):
            votes[run - 1], found = self.read(run)
            records[run - 1] = np.frombuffer(found, np.uint8)
        return votes, records

    def prefix(self) -> int:
        """The largest t such that runs 1..t are all finished."""
        done, t = self.done(), 0
        while t + 1 in done:
            t += 1
        return t
