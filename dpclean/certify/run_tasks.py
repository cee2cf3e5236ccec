"""The runs of a job as tasks: the result of each is a vote, which names its job, its run and the model that cast it.

A model that is kept lies in `models/` under its digest before the vote is written, and the vote names that digest: the
model that counts is that of the vote that counts, whoever else left one. As whoever does a run draws the same streams,
nothing is gained where two do it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.parameters import OwnParameters
from dpclean.certificate.votes import ABSTAIN, DIGEST_BYTES, Votes, first_of, record
from dpclean.certify.runs import Ballot, for_nobody
from dpclean.errors import ConflictError, InputError, SetupError
from dpclean.jobs.durable import write_durably
from dpclean.jobs.tasks import Tasks

MAGIC = b"dpclean vote 2\n"
NO_MODEL = bytes(DIGEST_BYTES)  # of a run that failed


@dataclass(frozen=True)
class Vote:
    """A finished run: row int32 [points]; model: the digest of what it trained, empty where none are kept.

    rankings: uint16 [points, classes], None where votes are not ranked.
    """

    row: NDArray[np.int32]
    record: bytes
    model: bytes
    rankings: NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class Table:
    """The votes of all runs: votes [runs, points], records and models uint8 [runs, 32], rankings uint16 [runs, points,
    classes]; the last two None where there are none.
    """

    votes: NDArray[np.int32]
    records: NDArray[np.uint8]
    models: NDArray[np.uint8] | None
    rankings: NDArray[np.uint16] | None

    def of(self, parameters: OwnParameters, labels: NDArray[np.int64] | None) -> Votes:
        """The record of a job."""
        return Votes(self.votes, labels, self.records, parameters, self.models, self.rankings)


class RunTasks(Tasks):
    """The runs 1..n of a job in a folder; points is the number of votes in each.

    ranked: of so many classes each vote is a ranking, 0 where it is none. of_shares: each run takes some of the images,
    and nothing else decides about its vote.
    """

    noun = "run"

    def __init__(
        self,
        folder: Path,
        job: str,
        points: int,
        *,
        ranked: int = 0,
        keep_models: bool = False,
        of_shares: bool = False,
        worker: str = "",
    ) -> None:
        super().__init__(folder, worker=worker)
        self.ranked = ranked
        self.of_shares = of_shares
        self.job = job
        self.points = points
        self.keep_models = keep_models

    def make_folders(self) -> None:
        super().make_folders()
        if self.keep_models:
            (self.folder / "models").mkdir(exist_ok=True)

    def model_path(self, run: int, digest: bytes) -> Path:
        """The file of what a run trained."""
        return self.folder / "models" / f"{run:07d}.{digest.hex()}.safetensors"

    def write(self, run: int, ballot: Ballot, model: bytes | None = None) -> bool:
        """Commit a run's ballot, and the model where models are kept; False if it was there already.

        Raises SetupError where the disk refuses.
        """
        row = first_of(ballot) if self.ranked else ballot
        ranked = np.ascontiguousarray(ballot, "<u2").tobytes() if self.ranked else b""
        votes, digest = np.ascontiguousarray(row, "<i4"), b""
        if (votes == ABSTAIN).all():  # by scores that are not finite, say: a vote for nobody is that of no model
            model = None
        if self.keep_models:
            digest = NO_MODEL if model is None else hashlib.sha256(model).digest()
        if model is not None and self.keep_models:
            try:
                write_durably(self.model_path(run, digest), model)
            except SetupError:
                if not self.folder.exists():  # another command has completed the job meanwhile
                    return False
                raise
        found = record(self.job, run, votes, digest, ranked)
        return self.finish(run, MAGIC + found + digest + votes.tobytes() + ranked)

    def give_up(self, run: int, reason: str) -> None:
        """Commit a run that failed twice: a vote for nobody."""
        self.note(self.reason_path(run), reason)
        self.write(run, for_nobody(self.points, self.ranked))

    def lost(self, run: int, reason: str) -> None:
        """A run that ended its process twice has failed; where runs take shares, the machine may have no part in that.

        Raises SetupError there.
        """
        if self.of_shares:
            raise SetupError(
                f"{reason}, and no vote may depend on anything but the images that the run took",
                "free some memory, or use fewer --workers; the same command does the run again",
            )
        super().lost(run, reason)

    def read(self, run: int) -> Vote:
        """A finished run.

        Raises InputError for a file that is damaged, ConflictError for a run of another job or of another number.
        """
        data, head = self.path(run).read_bytes(), len(MAGIC) + DIGEST_BYTES
        body = head + (DIGEST_BYTES if self.keep_models else 0)
        end = body + 4 * self.points
        if not data.startswith(MAGIC) or len(data) != end + 2 * self.points * self.ranked:
            raise InputError(f"the vote of run {run} is damaged", f"delete {str(self.path(run))!r} and go on")
        found, model, row = data[len(MAGIC) : head], data[head:body], np.frombuffer(data[body:end], "<i4")
        if found != record(self.job, run, row, model, data[end:]):
            raise ConflictError(
                f"the vote in {str(self.path(run))!r} is of another job, of another run, or was edited",
                "delete the file and go on: the run is done again",
            )
        rankings = None
        if self.ranked:
            rankings = np.frombuffer(data[end:], "<u2").astype(np.uint16).reshape(self.points, self.ranked)
        return Vote(row.astype(np.int32), found, model, rankings)

    def table(self, runs: int) -> Table:
        """Of runs 1..runs, which are finished."""
        votes = np.empty((runs, self.points), np.int32)
        records, models = (np.empty((runs, DIGEST_BYTES), np.uint8) for _ in range(2))
        rankings = np.empty((runs, self.points, self.ranked), np.uint16)
        for run in range(1, runs + 1):
            vote = self.read(run)
            votes[run - 1], records[run - 1] = vote.row, np.frombuffer(vote.record, np.uint8)
            if self.keep_models:
                models[run - 1] = np.frombuffer(vote.model, np.uint8)
            if vote.rankings is not None:
                rankings[run - 1] = vote.rankings
        return Table(votes, records, models if self.keep_models else None, rankings if self.ranked else None)
