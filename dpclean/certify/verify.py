"""A certificate checked from its votes, in integers: no torch, no trust in the numbers that it states.

Every claim is tested by the check of `exact`, which is another way than the one by which it was found; what follows
from the claims is computed again. What cannot be checked, that the votes come from honest runs, is not.
docs/certificates.md, section "The check".
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dpclean import __version__
from dpclean.certify import bounds, exact, statements
from dpclean.certify.certificate import NO_RADIUS, assemble, check_terms, known_labels, read, tsv
from dpclean.certify.exact import Setting
from dpclean.certify.votes import ABSTAIN, VOTES_NAME, Tally, Votes, job_id, read_votes, record, tally
from dpclean.errors import DifferenceError, InputError, UsageError
from dpclean.small_files import LARGE_LIMIT, read_small_file

CERTIFICATE_NAME = "certificate.json"
TSV_NAME = "certified.tsv"
SENTENCES = ("assumptions", "not_covered", "accuracy_certificate_absent", "attack_sizes")  # worded by a version
MICRO = Fraction(1, 10**6)
_REMEDY = "do not rely on this certificate; ask its issuer for the original"
_MISSING = object()


@dataclass(frozen=True)
class Verified:
    """What was checked and held. warnings: sentences without a full stop."""

    folder: str
    kind: str
    points: int
    certified: int
    runs: int
    claims: int  # that differ in counts or numbers, each tested once
    warnings: list[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "verify", "status": "ok", **asdict(self)}


def verify(folder: Path) -> Verified:
    """Recompute a certificate from votes.safetensors beside it.

    Raises DifferenceError that names the first difference, InputError for files that cannot be read, ConflictError for
    those of a newer format.
    """
    begun = time.monotonic()
    certificate, votes = read(folder / CERTIFICATE_NAME), read_votes(folder / VOTES_NAME)
    warnings = _check_records(votes)
    _check_terms(certificate, votes)
    digest = hashlib.sha256((folder / VOTES_NAME).read_bytes()).hexdigest()
    _check_equal("votes_sha256", digest, certificate.get("votes_sha256"))
    counted = tally(votes)
    claims = _check_points(certificate.get("points"), votes, counted)
    warnings += _check_rest(certificate, assemble(votes, digest, counted, certificate["points"]))
    _check_tsv(folder / TSV_NAME, certificate)
    return Verified(
        folder=str(folder),
        kind=certificate["kind"],
        points=len(certificate["points"]),
        certified=certificate["summary"]["certified"],
        runs=votes.terms["runs"],
        claims=claims.tested,
        warnings=warnings + claims.warnings() + statements.warnings(votes.terms),
        seconds=round(time.monotonic() - begun, 3),
    )


# --------------------------------------------------------------------------------------------- records and terms


def _check_records(votes: Votes) -> list[str]:
    """That each row is that run's of this job."""
    if votes.records is None:
        return ["the votes carry no records of their runs: that a row was not edited or repeated cannot be seen"]
    job, seen = job_id(votes.terms), dict[bytes, int]()
    for run, (row, kept) in enumerate(zip(votes.votes, votes.records, strict=True), 1):
        found = kept.tobytes()
        if found in seen:
            raise _difference(f"run {run} is a copy of run {seen[found]}")
        seen[found] = run
        if found != record(job, run, row):
            raise _difference(f"run {run}: its votes were edited, or are of another run, of another job or other terms")
    return []


def _check_terms(certificate: Mapping[str, Any], votes: Votes) -> None:
    kept = {name: value for name, value in votes.terms.items() if name != "point_names"}
    _check_equal("terms", kept, certificate.get("terms"))
    _check_equal("job", job_id(votes.terms), certificate.get("job"))
    try:
        check_terms(votes.terms)
    except UsageError as error:
        raise _difference(f"under these terms nothing can be certified: {error.message}") from error


# -------------------------------------------------------------------------------------------------------- points


class _Claims:
    """Tests of claims by their numbers alone: points with equal counts and claims are tested once."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tested = 0
        self.beaten = 0
        self.problem = cache(self._problem)
        # whatever k_b is, these are the same for most points
        self.lower_holds: Callable[..., bool] = cache(partial(exact.lower_holds, setting))
        self.radius_holds: Callable[..., bool] = cache(partial(exact.radius_holds, setting))

    def _problem(self, k_a: int, k_b: int, pa: str | None, pb: str | None, radius: str, budget: int) -> str | None:
        """What is wrong with a claim, None where it follows from the counts; radius "0.000000" claims nothing."""
        self.tested += 1
        if radius == NO_RADIUS:
            self.beaten += bounds.claim(self.setting, k_a, k_b) is not None
            return None if (pa, pb, budget) == (None, None, 0) else "abstains, and states numbers"
        if (pb is None) == (self.setting.bound == "multiclass"):
            return f"pb_upper is {pb!r}"
        for name, value, places in (("certified_radius", radius, 6), ("pa_lower", pa, 18), ("pb_upper", pb, 18)):
            if value is not None and not re.fullmatch(rf"[0-9]{{1,9}}\.[0-9]{{{places}}}", value):
                return f"{name} is {value!r}, no decimal with {places} places"
        if pa is None:
            return "pa_lower is missing"
        return self._false(k_a, k_b, Fraction(radius), Fraction(pa), None if pb is None else Fraction(pb), budget)

    def _false(
        self, k_a: int, k_b: int, radius: Fraction, pa: Fraction, pb: Fraction | None, budget: int
    ) -> str | None:
        setting, votes = self.setting, f"{k_a} votes to {k_b}"
        if budget != bounds.budget(radius):
            return f"budget is {budget}, the radius makes it {bounds.budget(radius)}"
        if setting.bound != "cohen" and k_a <= k_b or not exact.winner_is_best(setting, k_a, k_b):
            return f"a class is claimed, {votes} do not single it out"
        if not self.lower_holds(k_a, pa):
            return f"pa_lower is {float(pa)}, more than {votes} prove"
        if pb is not None and not exact.upper_holds(setting, k_b, pb, pa):
            return f"pb_upper is {float(pb)}, less than {votes} prove"
        bound = (pa, pb) if setting.bound == "multiclass" else ()
        if not self.radius_holds(k_a, radius, *bound):
            return f"certified_radius is {float(radius):.6f}, more than {votes} prove"
        self.beaten += self.radius_holds(k_a, radius + MICRO, *bound)
        return None

    def warnings(self) -> list[str]:
        if not self.beaten:
            return []
        return [f"{self.beaten} claims are smaller than the votes would allow, which is no error"]


def _check_points(points: Any, votes: Votes, counted: Tally) -> _Claims:
    """Each point's identity and counts against the votes, and its claim by the check."""
    claims = _Claims(bounds.setting_of(votes.terms))
    if not isinstance(points, list) or len(points) != votes.terms["points"]:
        raise _difference(f"the certificate does not have {votes.terms['points']} points, as its terms announce")
    names, labels = votes.terms["point_names"], known_labels(votes)
    columns = zip(counted.winner.tolist(), counted.k_a.tolist(), counted.k_b.tolist(), strict=True)
    for index, (point, (winner, k_a, k_b)) in enumerate(zip(points, columns, strict=True)):
        where = f"point {index} ({names[index]!r})"
        numbers = _numbers(where, point)
        known = {"index": index, "name": names[index], "label": labels[index], "k_a": k_a, "k_b": k_b}
        abstains = point["certified_radius"] == NO_RADIUS
        known["class"] = ABSTAIN if abstains else winner
        for name, expected in known.items():
            if point.get(name, _MISSING) != expected:
                raise _difference(f"{where}: {name} is {point.get(name)!r}, the votes say {expected!r}")
        if not abstains and winner == ABSTAIN:
            raise _difference(f"{where}: a class is claimed and nobody voted")
        if problem := claims.problem(k_a, k_b, *numbers):
            raise _difference(f"{where}: {problem}")
    return claims


def _numbers(where: str, point: Any) -> tuple[str | None, str | None, str, int]:
    """(pa_lower, pb_upper, certified_radius, budget) of a point, of the right types."""
    if not isinstance(point, dict) or len(point) != 10:
        raise _difference(f"{where}: it is no point of a certificate")
    pa, pb, radius, budget = (point.get(name) for name in ("pa_lower", "pb_upper", "certified_radius", "budget"))
    if not (
        isinstance(pa, str | None) and isinstance(pb, str | None) and isinstance(radius, str) and type(budget) is int
    ):
        raise _difference(f"{where}: its numbers are not what a certificate holds")
    return pa, pb, radius, budget


# ---------------------------------------------------------------------------------------------- what follows from it


def _check_rest(certificate: Mapping[str, Any], expected: dict[str, Any]) -> list[str]:
    """Everything but the points against what was computed again from them."""
    found, warnings = dict(certificate), []
    if certificate.get("tool") != f"dpclean {__version__}":
        warnings.append(f"made by {certificate.get('tool')}: its sentences were not compared, all numbers were")
        for name in SENTENCES:
            found.pop(name, None)
            expected.pop(name)
    for whole in (found, expected):
        whole.pop("points")  # checked one by one
    for name in dict.fromkeys([*expected, *found]):
        _check_equal(name, expected.get(name, _MISSING), found.get(name, _MISSING))
    return warnings


def _check_tsv(path: Path, certificate: Mapping[str, Any]) -> None:
    try:
        found = read_small_file(path, LARGE_LIMIT)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}", "give a folder that certify made") from error
    expected = tsv(certificate).encode("utf-8", "surrogateescape")
    lines = zip_longest(expected.split(b"\n"), found.split(b"\n"))
    for number, (wanted, line) in enumerate(lines, 1):
        if wanted != line:
            raise _difference(f"{TSV_NAME} differs from {CERTIFICATE_NAME} in line {number}")


def _check_equal(name: str, expected: Any, found: Any) -> None:
    """Raises DifferenceError that names the first place where two JSON values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*expected, *found]):
            _check_equal(f"{name}.{key}", expected.get(key, _MISSING), found.get(key, _MISSING))
    elif isinstance(expected, list) and isinstance(found, list):
        for place, (wanted, value) in enumerate(zip_longest(expected, found, fillvalue=_MISSING)):
            _check_equal(f"{name}[{place}]", wanted, value)
    elif type(expected) is not type(found) or expected != found:
        raise _difference(f"{name} is {_shown(found)}, recomputed it is {_shown(expected)}")


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else repr(value) if len(repr(value)) <= 100 else repr(value)[:100] + "..."


def _difference(message: str) -> DifferenceError:
    return DifferenceError(message, _REMEDY)
