"""The record of a job: one row of votes a run, and the terms that were fixed before the first of them.

Everything that a certificate says is computed from this file, and everything in it is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dpclean.certify.exact import BOUNDS
from dpclean.errors import ConflictError, InputError
from dpclean.small_files import check_regular_file

VOTES_NAME = "votes.safetensors"
ABSTAIN = -1
FORMAT = 1
MOST_RUNS = 10**6
FAMILIES = ("point", "all")
THREATS = ("clean-test", "noised-test")
_METADATA = "dpclean"
_WHOLE = "restore the file, or take the votes again"
_FORM: dict[str, tuple[type, ...]] = {  # the terms that something is computed from
    "runs": (int,),
    "selection_runs": (int,),
    "points": (int,),
    "classes": (list,),
    "sigma": (str,),
    "alpha": (str,),
    "tau": (str,),
    "bound": (str,),
    "family": (str,),
    "threat": (str,),
    "origin": (str,),
    "tool": (str,),
    "values": (int, type(None)),
    "seed": (int, type(None)),
    "point_names": (list,),
    "point_source": (str,),
    "raw": (dict, type(None)),
    "denoiser": (dict, type(None)),
    "trainer": (str, type(None)),
    "exploratory": (bool,),
}


@dataclass(frozen=True)
class Votes:
    """votes: int32 [runs, points], -1 none, else a place in the class list; row j, from 0, is run j + 1.

    labels: int64 [points], -1 unknown, or None. records: uint8 [runs, 32], or None for votes from elsewhere.
    terms: docs/certificates.md, section "Files"; with `cohen` the first terms["selection_runs"] rows select.
    """

    votes: NDArray[np.int32]
    labels: NDArray[np.int64] | None
    records: NDArray[np.uint8] | None
    terms: dict[str, Any]


def record(job: str, run: int, row: NDArray[np.int32]) -> bytes:
    """What binds a run's votes [points] to its job (hex) and number: 32 bytes of SHA-256."""
    begin = b"dpclean-run-1" + bytes.fromhex(job) + run.to_bytes(8, "little")
    return hashlib.sha256(begin + np.ascontiguousarray(row, "<i4").tobytes()).digest()


def job_id(terms: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the terms; of `anytime` without the number of runs, which may be raised."""
    fixed = {name: value for name, value in terms.items() if name != "runs" or terms["bound"] != "anytime"}
    return hashlib.sha256(_canonical(fixed).encode()).hexdigest()


def votes_bytes(votes: Votes) -> bytes:
    """The file votes.safetensors; the same votes give the same bytes."""
    tensors: dict[str, NDArray[Any]] = {"votes": np.ascontiguousarray(votes.votes, "<i4")}
    if votes.labels is not None:
        tensors["labels"] = np.ascontiguousarray(votes.labels, "<i8")
    if votes.records is not None:
        tensors["records"] = np.ascontiguousarray(votes.records, np.uint8)
    return save(tensors, {_METADATA: _canonical(votes.terms)})


def _canonical(terms: Mapping[str, Any]) -> str:
    return json.dumps(terms, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


# ------------------------------------------------------------------------------------------------------- reading


def has_terms(path: Path) -> bool:
    """Whether a votes file is dpclean's own. Raises InputError where it cannot be read."""
    with _opened(path) as file:
        return _METADATA in (file.metadata() or {})


def read_votes(path: Path) -> Votes:
    """dpclean's own votes, checked against their terms. Raises InputError, or ConflictError for a newer format."""
    with _opened(path) as file:
        terms = _terms(path, (file.metadata() or {}).get(_METADATA))
        votes, labels = _votes_and_labels(path, file, len(terms["classes"]))
        records = _tensor(path, file, "records", "U8", (votes.shape[0], 32)) if "records" in file.keys() else None
    shape = (terms["runs"], terms["points"])
    if votes.shape != shape:
        raise InputError(
            f"{str(path)!r} has votes of {votes.shape[0]} runs on {votes.shape[1]} points,"
            f" its terms announce {shape[0]} on {shape[1]}",
            "all runs that were announced are needed, and no others",
        )
    return Votes(votes, labels, records, terms)


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
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}", "check the path") from error
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


def _terms(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise InputError(f"{str(path)!r} does not say under which terms its votes were cast", "use certify --votes")
    try:
        terms = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} has terms that are no JSON: {error}", _WHOLE) from error
    found = terms.get("format") if isinstance(terms, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ConflictError(
            f"{str(path)!r} has format {found}, this dpclean reads up to {FORMAT}",
            f"use {terms.get('tool', 'a newer dpclean')} or newer",
        )
    if found != FORMAT or not _well_formed(terms):
        raise InputError(f"{str(path)!r} has terms that are incomplete or damaged", _WHOLE)
    assert isinstance(terms, dict)
    return terms


def _well_formed(terms: dict[str, Any]) -> bool:
    """Whether all that is computed with is there and of its type; the values are for `certificate.check_terms`."""
    return (
        all(name in terms and isinstance(terms[name], types) for name, types in _FORM.items())
        and all(isinstance(name, str) for name in [*terms["classes"], *terms["point_names"]])
        and len(terms["point_names"]) == terms["points"]
        and terms["bound"] in BOUNDS
        and terms["family"] in FAMILIES
        and terms["threat"] in THREATS
        and (terms["raw"] is None or _raw_well_formed(terms["raw"]))
    )


def _raw_well_formed(raw: dict[str, Any]) -> bool:
    counts = [raw.get("images"), raw.get("listed")]
    quarantined = raw.get("quarantined")
    return isinstance(quarantined, dict) and all(isinstance(n, int) for n in [*counts, *quarantined.values()])


# ------------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Tally:
    """Votes counted. winner, k_a, k_b: int64 [points], the class that may be claimed (-1 none), its votes, and the most
    for another class; with `cohen` the selection names the winner and only the other runs are counted.

    correct, voted: int64 [classes], over all runs: votes for class c on labelled points of class c; on any labelled.
    """

    winner: NDArray[np.int64]
    k_a: NDArray[np.int64]
    k_b: NDArray[np.int64]
    correct: NDArray[np.int64]
    voted: NDArray[np.int64]


def tally(votes: Votes) -> Tally:
    """The counts of all points, a block of them at a time."""
    classes, points, selecting = len(votes.terms["classes"]), votes.votes.shape[1], votes.terms["selection_runs"]
    winner, k_a, k_b = (np.empty(points, np.int64) for _ in range(3))
    correct, voted = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    span = max(1, (1 << 22) // max(classes, votes.votes.shape[0]))
    for begin in range(0, points, span):
        block = slice(begin, begin + span)
        counts = _count(votes.votes[selecting:, block], classes)
        selection = _count(votes.votes[:selecting, block], classes) if selecting else counts
        winner[block], k_a[block], k_b[block] = _leaders(counts, selection)
        if votes.labels is not None:
            every = counts + selection if selecting else counts
            labels = votes.labels[block]
            rows = np.flatnonzero(labels >= 0)
            np.add.at(correct, labels[rows], every[rows, labels[rows]])
            voted += every[rows].sum(axis=0)
    return Tally(winner, k_a, k_b, correct, voted)


def _count(votes: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """Votes [runs, points] to counts [points, classes]."""
    points, places = votes.shape[1], classes + 1
    cells = votes + 1 + np.arange(points, dtype=np.int64) * places
    return np.bincount(cells.ravel(), minlength=points * places).reshape(points, places)[:, 1:]


def _leaders(
    counts: NDArray[np.int64], selection: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(winner, k_a, k_b): the lowest class among equals, which is harmless, as a tie of the counted runs abstains."""
    rows = np.arange(len(counts))
    winner = selection.argmax(axis=1)
    nobody = selection[rows, winner] == 0
    k_a = np.where(nobody, 0, counts[rows, winner])
    others = counts.copy()
    others[rows[~nobody], winner[~nobody]] = -1
    winner[nobody] = ABSTAIN
    return winner, k_a, others.max(axis=1)
