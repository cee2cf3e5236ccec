"""The runs of one job as small files: each claimed by one process, written whole, counted once.

A unit is a run by its number. Its vote is a file of its own in `runs/`, its claim a locked file in `claims/`; both may
lie on a disk that several machines share. A claim dies with its process. Where a lock does not reach another machine,
two may do the same run: the first file counts, and as both draw the same streams nothing is gained by either.
A model that is kept lies in `models/` under its digest before the vote is written, and the vote names that digest: the
model that counts is that of the vote that counts, whoever else left one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.votes import DIGEST_BYTES, record
from dpclean.errors import ConflictError, InputError, SetupError
from dpclean.jobs.durable import write_durably, writing

MAGIC = b"dpclean vote 2\n"
FOLDER_OF = 1000  # runs in a folder: directories of a million files are slow everywhere
NO_MODEL = bytes(DIGEST_BYTES)  # of a run that failed


def new_worker() -> str:
    """A name for a process that no other one has, on this machine or another, in this container or another."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Vote:
    """A finished run: row int32 [points]; model: the digest of what it trained, empty where none are kept."""

    row: NDArray[np.int32]
    record: bytes
    model: bytes


class Units:
    """The runs 1..n of a job in a folder; points is the number of votes in each. worker: see new_worker."""

    def __init__(self, folder: Path, job: str, points: int, *, keep_models: bool = False, worker: str = "") -> None:
        self.folder = folder
        self.job = job
        self.points = points
        self.keep_models = keep_models
        self.worker = worker or new_worker()

    def make_folders(self) -> None:
        """What the files below go into."""
        for name in ("runs", "claims", "failed", *(("models",) if self.keep_models else ())):
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

    def model_path(self, run: int, digest: bytes) -> Path:
        """The file of what a run trained."""
        return self.folder / "models" / f"{run:07d}.{digest.hex()}.safetensors"

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
            os.pwrite(handle, json.dumps({"worker": self.worker}).encode(), 0)
            yield not self.path(run).exists()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        finally:
            os.close(handle)

    def claimed_by(self, worker: str) -> int | None:
        """The run that a process, now dead, had claimed."""
        for path in (self.folder / "claims").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(path.read_bytes()) == {"worker": worker}:
                    return int(path.name)
        return None

    def write(self, run: int, row: NDArray[np.int32], model: bytes | None = None) -> bool:
        """Commit a run's votes [points], and the model where models are kept; False if it was there already.

        Raises SetupError where the disk refuses.
        """
        votes, digest = np.ascontiguousarray(row, "<i4"), b""
        if self.keep_models:
            digest = NO_MODEL if model is None else hashlib.sha256(model).digest()
        try:
            if model is not None and self.keep_models:
                write_durably(self.model_path(run, digest), model)
            with writing(self.path(run).parent):
                self.path(run).parent.mkdir(exist_ok=True)
            head = MAGIC + record(self.job, run, votes, digest) + digest
            # never over another's: the first to finish a run has done it
            return write_durably(self.path(run), head + votes.tobytes(), replace=False)
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
        write_durably(path, text.encode("utf-8", "surrogateescape"))

    def read(self, run: int) -> Vote:
        """A finished run.

        Raises InputError for a file that is damaged, ConflictError for a run of another job or of another number.
        """
        data, head = self.path(run).read_bytes(), len(MAGIC) + DIGEST_BYTES
        body = head + (DIGEST_BYTES if self.keep_models else 0)
        if not data.startswith(MAGIC) or len(data) != body + 4 * self.points:
            raise InputError(f"the vote of run {run} is damaged", f"delete {str(self.path(run))!r} and go on")
        found, model, row = data[len(MAGIC) : head], data[head:body], np.frombuffer(data[body:], "<i4")
        if found != record(self.job, run, row, model):
            raise ConflictError(
                f"the vote in {str(self.path(run))!r} is of another job, of another run, or was edited",
                "delete the file and go on: the run is done again",
            )
        return Vote(row.astype(np.int32), found, model)

    def table(self, runs: int) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint8] | None]:
        """(votes [runs, points], records [runs, 32], models [runs, 32] or None) of runs 1..runs, which are finished."""
        votes = np.empty((runs, self.points), np.int32)
        records, models = (np.empty((runs, DIGEST_BYTES), np.uint8) for _ in range(2))
        for run in range(1, runs + 1):
            vote = self.read(run)
            votes[run - 1], records[run - 1] = vote.row, np.frombuffer(vote.record, np.uint8)
            if self.keep_models:
                models[run - 1] = np.frombuffer(vote.model, np.uint8)
        return votes, records, models if self.keep_models else None

    def prefix(self) -> int:
        """The largest t such that runs 1..t are all finished."""
        done, t = self.done(), 0
        while t + 1 in done:
            t += 1
        return t
