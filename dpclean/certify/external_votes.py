"""Votes cast elsewhere, or dpclean's own read another way: to a certificate, or to an exploratory report."""

from __future__ import annotations

import hashlib
import os
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

from msgspec import UnsetType, structs

from dpclean import __version__
from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.decimals import shortest
from dpclean.certificate.limits import check_parameters
from dpclean.certificate.parameters import (
    FORMAT,
    MOST_CLASSES,
    ForeignParameters,
    FormError,
    as_json,
    check_consistent,
    parts_of,
    share_of,
)
from dpclean.certificate.threats import DEFAULT_THREAT
from dpclean.certificate.votes import VOTES_NAME, Votes, has_parameters, read_plain_votes, read_votes
from dpclean.certificate.whole_images import WORD, numbers_of
from dpclean.certify.results import CertifyResult
from dpclean.certify.save import MARKS, read_result, write_outputs
from dpclean.errors import ConflictError, InputError, UsageError
from dpclean.jobs.checks import check_ranges, given_path
from dpclean.jobs.job import Call, Job, Tell
from dpclean.jobs.job import run as run_job
from dpclean.jobs.record import Json, Record
from dpclean.jobs.staging import Staging
from dpclean.noise import SIGMA_MAX

DEFAULTS: dict[str, str] = {
    "threat": DEFAULT_THREAT,
    "bound": DEFAULT_BOUND,
    "family": "point",
    "alpha": "0.001",
    "tau": "0",
}


def certify_votes(
    votes: str | os.PathLike[str],
    out: str | os.PathLike[str] = "certificate",
    *,
    runs: int | None = None,
    threat: str | None = None,
    classes: int | None = None,
    sigma: str | None = None,
    bound: str | None = None,
    family: str | None = None,
    alpha: str | None = None,
    tau: str | None = None,
    selection_runs: int | None = None,
    subsample_word: int | None = None,
    with_images: str | int | None = None,
    exploratory: bool = False,
    overwrite: bool = False,
) -> CertifyResult:
    """The certificate of a votes file in OUT; what is None takes its default, or what dpclean's own votes say.

    votes: safetensors with `votes` int32 [runs, points] (-1 none) and perhaps `labels` int64 [points]. runs: how many
    were announced, where that is to be checked. subsample_word: in how many of 2^32 cases an image was in a run, where
    not all were in every run; with_images: beside how many changed images a radius is claimed too, such as "1,5,10".
    threat: what the votes were cast for; it is not checked.
    exploratory: read dpclean's own votes with another bound, alpha or family; the result proves nothing.
    Raises UsageError, InputError, ConflictError.
    """
    path = given_path(votes)
    check_ranges(classes=classes, selection_runs=selection_runs)
    Staging(Path(out)).check_apart(path)
    decimals = {"sigma": sigma, "alpha": alpha, "tau": tau}
    asked = {
        **{name: None if text is None else shortest(name, text) for name, text in decimals.items()},
        "bound": bound,
        "family": family,
        "threat": threat,
        "runs": runs,
        "selection_runs": selection_runs,
        "subsample": None if subsample_word is None else _word(subsample_word),
        "with_images": None if with_images is None else numbers_of(str(with_images)),
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if not 0 <= Fraction(given.get("sigma", 0)) <= Fraction(SIGMA_MAX):
        raise UsageError(
            f"sigma is on the [0, 1] pixel scale, from 0 to {SIGMA_MAX:g}, got {given['sigma']}",
            "divide it by 255 if pixels went from 0 to 255",
        )
    if has_parameters(path):
        read = _own(path, given, exploratory)
    else:
        read = _foreign(path, given, classes, exploratory)
    check_parameters(read.parameters)
    try:
        check_consistent(read.parameters)
    except FormError as error:
        raise UsageError(f"these votes are not read in this way: {error}", "leave the options out") from error
    return run_job(VotesJob(path, read, Path(out)), overwrite=overwrite)


class VotesJob(Job[CertifyResult]):
    """From votes that are read to their certificate."""

    kind = "certify --votes"
    marks = MARKS

    def __init__(self, path: Path, votes: Votes, out: Path) -> None:
        super().__init__(out)
        self.path, self.votes = path, votes

    def inputs(self) -> list[str | os.PathLike[str] | None]:
        return [self.path]

    def parameters(self) -> Json:
        return _decisive(self.votes)

    def environment(self) -> Json:
        return {}

    def made_with(self) -> Json:
        return _decisive(read_votes(self.out / VOTES_NAME))

    def begin(self) -> Json:
        return {}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        return True

    def save(self, record: Record) -> None:
        write_outputs(self.staging.partial, self.votes, [])

    def result(self, call: Call) -> CertifyResult:
        return read_result(self.out, already_complete=call.already_complete, seconds=call.seconds)


def _decisive(votes: Votes) -> Json:
    """What decides the certificate: all terms but who wrote them, and the digests of the tables."""
    terms = {name: value for name, value in as_json(votes.parameters).items() if name not in ("format", "tool")}
    for name in ("votes", "labels", "models", "rankings"):
        table = getattr(votes, name)
        terms[f"{name} digest"] = None if table is None else hashlib.sha256(table.tobytes()).hexdigest()
    return terms


def _own(path: Path, given: dict[str, Any], exploratory: bool) -> Votes:
    """dpclean's own votes bring their terms along."""
    read = read_votes(path)
    changed = {name: value for name, value in given.items() if getattr(read.parameters, name) != value}
    if changed.get("subsample"):
        cast = share_of(read.parameters)
        took = f"the subsample word {cast}" if cast else "all images in every run"
        raise ConflictError(
            f"these votes were cast with {took}, not with the word {changed['subsample']}",
            "leave --subsample-word out",
        )
    if fixed := [name for name in ("threat", "runs") if name in changed]:
        raise ConflictError(
            f"these votes were cast with {fixed[0]} {getattr(read.parameters, fixed[0])}, not {changed[fixed[0]]}",
            f"leave --{fixed[0]} out",
        )
    if changed and not exploratory:
        told = ", ".join(f"{name} {_said(getattr(read.parameters, name))}" for name in changed)
        raise ConflictError(
            f"these votes were cast under {told}, and what they prove may not be chosen after a look at them",
            "leave the options out, or add --exploratory for a report that proves nothing",
        )
    if not exploratory:
        return read
    if parts_of(read.parameters) is not None:
        raise UsageError(
            f"these votes are of one model a part, and prove what their election, {read.parameters.bound}, withstands",
            "leave --exploratory out",
        )
    parameters = structs.replace(read.parameters, **changed, exploratory=True)
    if "selection_runs" not in changed:
        selection = find_bound(parameters.bound).selection_runs(parameters.runs)
        parameters = structs.replace(parameters, selection_runs=selection)
    return Votes(read.votes, read.labels, None, parameters)


def _said(value: Any) -> str:
    if isinstance(value, UnsetType):
        return "none"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _word(word: int) -> int:
    if not 1 <= word < WORD:
        raise UsageError(
            f"--subsample-word is u: runs take an image with probability u / 2^32, from 1 to {WORD - 1}, got {word}",
            "for a share of 0.02 it is 85899345; leave it out where all images are in every run",
        )
    return word


def _foreign(path: Path, given: dict[str, Any], classes: int | None, exploratory: bool) -> Votes:
    if classes is None or "sigma" not in given:
        raise UsageError("votes from elsewhere say neither their classes nor their noise", "give --classes and --sigma")
    if classes > MOST_CLASSES:
        raise UsageError(f"at most {MOST_CLASSES} classes are counted, got {classes}", "give as many as there are")
    table, labels = read_plain_votes(path, classes)
    runs, points = table.shape
    if given.get("runs", runs) != runs:
        raise InputError(
            f"{str(path)!r} has votes of {runs} runs, {given['runs']} were announced", "all runs count, and no others"
        )
    chosen = {**DEFAULTS, **given}
    chosen.setdefault("selection_runs", find_bound(chosen["bound"]).selection_runs(runs))
    parameters = ForeignParameters(
        **{**chosen, "runs": runs},
        format=FORMAT,
        tool=f"dpclean {__version__}",
        points=points,
        classes=[str(number) for number in range(classes)],
        point_names=[str(number) for number in range(points)],
        exploratory=exploratory,
    )
    return Votes(table, labels, None, parameters)
