"""The record of a job: one row of votes a run, and the terms that were fixed before the first of them.

Everything that a certificate says is computed from this file, and everything in it is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dpclean.certificate.bounds.search import MOST_RUNS
from dpclean.certificate.elections import NO_RANKING
from dpclean.certificate.parameters import (
    FORMAT,
    CertificateParameters,
    FormError,
    OwnParameters,
    canonical,
    check_consistent,
    from_json,
    has_rankings,
    keeps_models,
    may_add_runs,
)
from dpclean.errors import InputError
from dpclean.small_files import check_regular_file
from dpclean.versioned import check_format

VOTES_NAME = "votes.safetensors"
ABSTAIN = -1
DIGEST_BYTES = 32
_METADATA = "dpclean"
_WHOLE = "restore the file, or take the votes again"


class InconsistentError(InputError):
    """A votes file in which something does not follow from the rest; what: that, without the file's name."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{str(path)!r}: {what}", "do not rely on these votes; ask their issuer for the original")
        self.what = what


@dataclass(frozen=True)
class Votes:
    """votes: int32 [runs, points], -1 none, else a place in the class list; row j, from 0, is run j + 1.

    labels: int64 [points], -1 unknown, or None. records: uint8 [runs, 32], or None for votes from elsewhere and for
    exploratory ones. models: uint8 [runs, 32], SHA-256 of each run's model, 0 for a run that failed; None where none
    were kept. rankings: uint16 [runs, points, classes], the classes from best to worst, or NO_RANKING throughout where
    there is no vote; None where the election asks for none. The first parameters.selection_runs rows select.
    """

    votes: NDArray[np.int32]
    labels: NDArray[np.int64] | None
    records: NDArray[np.uint8] | None
    parameters: CertificateParameters
    models: NDArray[np.uint8] | None = None
    rankings: NDArray[np.uint16] | None = None


def record(job: str, run: int, row: NDArray[np.int32], model: bytes = b"", rankings: bytes = b"") -> bytes:
    """What binds a run to its job (hex) and number: votes [points], the digest of its model and its rankings [points,
    classes] (uint16 LE), these where they are kept.
    """
    begin = b"dpclean-run-2" + bytes.fromhex(job) + run.to_bytes(8, "little")
    return hashlib.sha256(begin + np.ascontiguousarray(row, "<i4").tobytes() + model + rankings).digest()


def first_of(rankings: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """The votes of rankings [..., classes]: what each has first, -1 where it ranks nothing."""
    firsts = rankings[..., 0].astype(np.int32)
    firsts[firsts == NO_RANKING] = ABSTAIN
    return firsts


def job_id(parameters: CertificateParameters) -> str:
    """Hex SHA-256 of the parameters; without the number of runs where that may be raised."""
    may_be_raised = ("runs",) if may_add_runs(parameters) else ()
    return hashlib.sha256(canonical(parameters, without=may_be_raised).encode()).hexdigest()


def votes_bytes(votes: Votes) -> bytes:
    """The file votes.safetensors; the same votes give the same bytes."""
    tensors: dict[str, NDArray[Any]] = {"votes": np.ascontiguousarray(votes.votes, "<i4")}
    if votes.labels is not None:
        tensors["labels"] = np.ascontiguousarray(votes.labels, "<i8")
    if votes.records is not None:
        tensors["records"] = np.ascontiguousarray(votes.records, np.uint8)
    if votes.models is not None:
        tensors["models"] = np.ascontiguousarray(votes.models, np.uint8)
    if votes.rankings is not None:
        tensors["rankings"] = np.ascontiguousarray(votes.rankings, "<u2")
    return save(tensors, {_METADATA: canonical(votes.parameters)})


# ------------------------------------------------------------------------------------------------------- reading


def has_parameters(path: Path) -> bool:
    """Whether a votes file is dpclean's own. Raises InputError where it cannot be read."""
    with _opened(path) as file:
        return _METADATA in (file.metadata() or {})


def read_votes(path: Path) -> Votes:
    """dpclean's own votes, to the last byte what `votes_bytes` makes of them, each row under its record.

    Raises InputError for a file that cannot be read, InconsistentError where something in it does not follow from the
    rest, ConflictError for another format.
    """
    with _opened(path) as file:
        parameters = _parameters(path, (file.metadata() or {}).get(_METADATA))
        votes, labels = _votes_and_labels(path, file, len(parameters.classes))
        by_run = (votes.shape[0], DIGEST_BYTES)
        records, models = (
            _tensor(path, file, name, "U8", by_run) if name in file.keys() else None for name in ("records", "models")
        )
        rankings = None
        if "rankings" in file.keys():
            rankings = _tensor(path, file, "rankings", "U16", (*votes.shape, len(parameters.classes)))
    read = Votes(votes, labels, records, parameters, models, rankings)
    _check_rows(path, read)
    if votes_bytes(read) != read_bytes(path):
        raise InconsistentError(
            path, "its bytes are not those that its content gives: some say nothing, or something twice"
        )
    return read


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The first so many bytes of a regular file, or all. Raises InputError where it cannot be read."""
    try:
        check_regular_file(path)
        with path.open("rb") as file:  # memory is taken for what is asked for, however little is there
            return file.read(most if most < 0 else min(most, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {str(path)!r}: {error.strerror or error}", "give a folder or file that certify made"
    )


def _check_rows(path: Path, votes: Votes) -> None:
    """That there is a row for each run that was announced, and that each is that run's of this job."""
    parameters, runs = votes.parameters, votes.votes.shape[0]
    if votes.votes.shape != (parameters.runs, parameters.points):
        raise InconsistentError(
            path,
            f"it has votes of {runs} runs on {votes.votes.shape[1]} points, its terms announce {parameters.runs} on"
            f" {parameters.points}",
        )
    recorded = isinstance(parameters, OwnParameters) and not parameters.exploratory
    for name, tensor, wanted in (
        ("records", votes.records, recorded),
        ("models", votes.models, recorded and keeps_models(parameters)),
        ("rankings", votes.rankings, has_rankings(parameters)),
    ):
        if (tensor is not None) != wanted:
            said = "has no" if wanted else "has"
            raise InconsistentError(path, f"it {said} {name} of its runs, which does not go with its terms")
    _check_rankings(path, votes)
    if votes.records is None:
        return
    job, seen = job_id(parameters), dict[bytes, int]()
    failed = (votes.votes == ABSTAIN).all(axis=1)
    for place, (row, found) in enumerate(zip(votes.votes, votes.records, strict=True)):
        kept, run = found.tobytes(), place + 1
        model = b"" if votes.models is None else votes.models[place].tobytes()
        rankings = b"" if votes.rankings is None else votes.rankings[place].astype("<u2").tobytes()
        if kept in seen:
            raise InconsistentError(path, f"run {run} is a copy of run {seen[kept]}")
        seen[kept] = run
        if kept != record(job, run, row, model, rankings):
            raise InconsistentError(
                path, f"run {run}: its votes were edited, or are of another run, of another job or other terms"
            )
        if model and (model == bytes(DIGEST_BYTES)) != failed[place]:
            raise InconsistentError(path, f"run {run} has votes without a model, or a model without votes")


def _check_rankings(path: Path, votes: Votes) -> None:
    """That each ranking is of all classes, and its first the vote; or none, where there is no vote."""
    if votes.rankings is None:
        return
    classes = np.arange(len(votes.parameters.classes), dtype=np.uint16)
    for place, (row, ranked) in enumerate(zip(votes.votes, votes.rankings, strict=True)):
        whole = (np.sort(ranked, axis=1) == classes).all(axis=1)
        none = (ranked == NO_RANKING).all(axis=1)
        wrong = np.flatnonzero((first_of(ranked) != row) | ~(whole | none))
        if len(wrong):
            point = int(wrong[0])
            what = "is not of its vote" if whole[point] or none[point] else "does not have every class once"
            raise InconsistentError(path, f"the ranking of run {place + 1} at point {point} {what}")


def read_plain_votes(path: Path, classes: int) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """(votes, labels or None) of votes from elsewhere. Raises InputError for everything that is wrong with them."""
    with _opened(path) as file:
        return _votes_and_labels(path, file, classes)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        check_regular_file(path)
        with safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is no safetensors file: {error}", _WHOLE) from error


def _votes_and_labels(path: Path, file: Any, classes: int) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    if classes < 2:
        raise InputError(f"votes are for at least two classes, got {classes}", "say how many classes there are")
    if "votes" not in file.keys():
        raise InputError(f"{str(path)!r} has no tensor 'votes'", "save votes as int32 [runs, points]")
    votes = _tensor(path, file, "votes", "I32", (None, None))
    if votes.shape[0] > MOST_RUNS:
        raise InputError(f"{str(path)!r} has {votes.shape[0]} runs, at most {MOST_RUNS} are counted", "take fewer")
    _check_range(path, "votes", votes, classes)
    labels = None
    if "labels" in file.keys():
        labels = _tensor(path, file, "labels", "I64", (votes.shape[1],))
        _check_range(path, "labels", labels, classes)
    return votes, labels


def _tensor(path: Path, file: Any, name: str, dtype: str, shape: tuple[int | None, ...]) -> Any:
    """A tensor of that dtype and shape (None: any size but 0), looked at before memory is taken for it."""
    found = file.get_slice(name)
    sizes = found.get_shape()
    fits = len(sizes) == len(shape) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(sizes, shape, strict=True)
    )
    if found.get_dtype() != dtype or not fits:
        wanted = ", ".join("at least 1" if size is None else str(size) for size in shape)
        raise InputError(
            f"{str(path)!r}: {name!r} is {found.get_dtype()} {list(sizes)}, expected {dtype} [{wanted}]",
            "votes are int32 [runs, points], labels int64 [points]",
        )
    return file.get_tensor(name)


def _check_range(path: Path, name: str, values: NDArray[Any], classes: int) -> None:
    outside = np.argwhere((values < -1) | (values >= classes))
    if len(outside):
        place = tuple(int(index) for index in outside[0])
        where = f"of run {place[0] + 1} at point {place[1]}" if len(place) == 2 else f"of point {place[0]}"
        raise InputError(
            f"{str(path)!r}: the value {int(values[place])} in {name!r} {where} is not in -1..{classes - 1}",
            "-1 stands for none; classes are counted from 0",
        )


def _parameters(path: Path, text: str | None) -> CertificateParameters:
    if text is None:
        raise InputError(f"{str(path)!r} does not say under which terms its votes were cast", "use certify --votes")
    try:
        terms = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} has terms that are no JSON: {error}", _WHOLE) from error
    try:
        check_format(path, terms, FORMAT, oldest=FORMAT)
        parameters = from_json(terms)
        check_consistent(parameters)
        return parameters
    except FormError as error:
        raise InconsistentError(path, str(error)) from error
    except (RecursionError, ValueError) as error:  # in showing what is wrong: nested, or of thousands of digits
        raise InconsistentError(path, "its terms hold what no terms hold") from error


# ------------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class VoteCounts:
    """Votes counted. winner, k_a, k_b: int64 [points], the class that may be claimed (-1 none), its votes, and the most
    for another class; where runs select, these name the winner and only the others are counted.

    correct, voted: int64 [classes], over all runs: votes for class c on labelled points of class c; on any labelled.
    """

    winner: NDArray[np.int64]
    k_a: NDArray[np.int64]
    k_b: NDArray[np.int64]
    correct: NDArray[np.int64]
    voted: NDArray[np.int64]


def count_votes(votes: Votes) -> VoteCounts:
    """The counts of all points, a block of them at a time; the work grows with the votes, not with the classes."""
    classes, selecting = len(votes.parameters.classes), votes.parameters.selection_runs
    runs, points = votes.votes.shape
    winner, k_a, k_b = (np.empty(points, np.int64) for _ in range(3))
    correct, voted = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    span = max(1, (1 << 22) // runs)
    for begin in range(0, points, span):
        block = slice(begin, begin + span)
        cast = votes.votes[:, block]
        counts = _count(cast[selecting:])
        winner[block], k_a[block], k_b[block] = _leaders(counts, _count(cast[:selecting]) if selecting else counts)
        if votes.labels is not None:
            known = np.flatnonzero(votes.labels[block] >= 0)
            labels, of_known = votes.labels[block][known], cast[:, known]
            np.add.at(correct, labels, (of_known == labels).sum(axis=0))
            voted += np.bincount(of_known[of_known >= 0], minlength=classes)
    return VoteCounts(winner, k_a, k_b, correct, voted)


@dataclass(frozen=True)
class _Counts:
    """The votes for each class that has any at a point, of so many points: int64 [N] each, by point, then by class."""

    points: int
    point: NDArray[np.int64]
    label: NDArray[np.int64]
    votes: NDArray[np.int64]


def _count(votes: NDArray[np.int32]) -> _Counts:
    """Votes [runs, points], counted."""
    runs, points = votes.shape
    ordered = np.sort(votes.T, axis=1)
    differs = np.ones((points, runs), np.bool_)
    differs[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(differs)
    label, counts = ordered.ravel()[starts], np.diff(starts, append=ordered.size)
    cast = label != ABSTAIN
    return _Counts(points, starts[cast] // runs, label[cast].astype(np.int64), counts[cast])


def _leaders(counts: _Counts, selection: _Counts) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(winner, k_a, k_b): the lowest class among equals, which is harmless, as a tie of the counted runs abstains."""
    most, k_a, k_b = (np.zeros(counts.points, np.int64) for _ in range(3))
    np.maximum.at(most, selection.point, selection.votes)
    first = np.flatnonzero(selection.votes == most[selection.point])[::-1]  # of those of a point the lowest stays
    winner = np.full(counts.points, ABSTAIN, np.int64)
    winner[selection.point[first]] = selection.label[first]
    own = counts.label == winner[counts.point]
    k_a[counts.point[own]] = counts.votes[own]
    np.maximum.at(k_b, counts.point[~own], counts.votes[~own])
    return winner, k_a, k_b
