"""A certificate made again from its votes, in integers, and compared to the last byte: no torch, no trust.

All that certificate.json and certified.tsv say follows from votes.safetensors; nothing that they say is used, but the
proofs of amplified radii, which are tested. Every claim is tested once more by the check of `exact`. What cannot be
made again, that the votes come from honest runs above all, is named. docs/certificates.md, section "The check".
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dpclean import __version__
from dpclean.certificate.assumptions import issuers_word, warnings
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import Claim
from dpclean.certificate.certificate import build
from dpclean.certificate.files import CERTIFICATE_NAME, TSV_NAME, Published, check_is_certificate, dump, tsv
from dpclean.certificate.headline import headline
from dpclean.certificate.mixtures import Mixture, Withstood, withstood
from dpclean.certificate.parameters import (
    CertificateParameters,
    beside_of,
    canonical,
    issuers_terms,
    parts_of,
    settings_of,
)
from dpclean.certificate.votes import ABSTAIN, VOTES_NAME, InconsistentError, Votes, read_bytes, read_votes
from dpclean.errors import DifferenceError, InputError, UsageError

RECOMPUTED = (
    "certificate.json and certified.tsv, every byte, from votes.safetensors: class, counts, bounds, radius and budget"
    " of each point, the tables of accuracy, the summary, the sizes of attacks, all sentences",
    "the number of rows and the record of each, the job's identity, the digest of the votes",
    "the terms that follow from others: tau1 and tau from sigma and values, the runs that select, the commitment to a"
    " key that comes from a seed, the order, which terms must be there; of all others the form",
)
PROOFS = "the witnesses that prove amplified radii: tested as they are published, not searched for"
NOT_READ = ("report.html", "curve.svg", "curve.png")
_REMEDY = "do not rely on this certificate; ask its issuer for the original"
_MISSING = object()


@dataclass(frozen=True)
class Verified:
    """What was made again and held, and what was not looked at. All but names are sentences."""

    folder: str
    kind: str
    points: int
    certified: int
    runs: int
    job: str
    claims: int  # that differ in counts or numbers, each tested once
    recomputed: tuple[str, ...]
    issuers_word: list[str]
    issuers_terms: list[str]  # names
    not_read: tuple[str, ...]  # files beside it
    warnings: list[str]
    seconds: float
    headline: str | None  # what it says of whole images, in a sentence or two
    withstood: Withstood | None = None  # the mixture of attacks that was asked for

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 2, "command": "verify", "status": "ok", **asdict(self)}


def verify(certificate: str | os.PathLike[str], mixture: Mixture | None = None) -> Verified:
    """Make a certificate again from votes.safetensors beside it; its folder or its certificate.json is named.

    mixture: tell what is proved against it, too. Raises UsageError where the certificate cannot speak of it,
    DifferenceError that names the first difference, InputError for files that cannot be read, ConflictError for
    those of another format.
    """
    begun = time.monotonic()
    folder = folder_of(Path(certificate))
    votes, made = _made_again(folder)
    _compare(folder, made)
    return Verified(
        folder=str(folder),
        kind=made["kind"],
        points=len(made["points"]),
        certified=made["summary"]["certified"],
        runs=votes.parameters.runs,
        job=made["job"],
        claims=_check_claims(votes, made["points"]),
        recomputed=(*RECOMPUTED, PROOFS) if _amplified(votes.parameters) else RECOMPUTED,
        issuers_word=issuers_word(votes.parameters),
        issuers_terms=issuers_terms(votes.parameters),
        not_read=tuple(name for name in NOT_READ if (folder / name).exists()),
        warnings=warnings(votes.parameters),
        withstood=None if mixture is None else withstood(votes.parameters, made["points"], mixture),
        seconds=round(time.monotonic() - begun, 3),
        headline=headline(made),
    )


def folder_of(certificate: Path) -> Path:
    """The folder of a certificate that is named by it or by the certificate.json in it. Raises InputError."""
    if certificate.name == CERTIFICATE_NAME and not certificate.is_dir():
        return certificate.parent
    if certificate.exists() and not certificate.is_dir():
        raise InputError(
            f"{str(certificate)!r} is no certificate",
            f"give a folder that certify made, or the {CERTIFICATE_NAME} in it",
        )
    return certificate


def _made_again(folder: Path) -> tuple[Votes, dict[str, Any]]:
    """The votes of a folder, and the certificate that they, their terms and the proofs in it give."""
    path = folder / VOTES_NAME
    try:
        votes = read_votes(path)
        published = _published(folder, votes) if _amplified(votes.parameters) else None
        return votes, build(votes, hashlib.sha256(read_bytes(path)).hexdigest(), published)
    except InconsistentError as error:
        raise _difference(f"{VOTES_NAME}: {error.what}") from error
    except UsageError as error:
        raise _difference(f"under these terms nothing can be certified: {error.message}") from error


def _amplified(parameters: CertificateParameters) -> bool:
    """Whether radii may be amplified, so that a certificate brings what proves them."""
    settings = settings_of(parameters)
    return settings.moving < 1 and settings.sigma > 0


def _published(folder: Path, votes: Votes) -> Published:
    """The certificate as it was published, for the proofs in it: they are tested, not searched for again."""
    parameters = votes.parameters
    curves = 1 + len(beside_of(parameters))
    of_points, of_classes = parameters.points * (1 << 10), (len(parameters.classes) + 100) * (1 << 14)
    most = (1 << 20) + curves * (of_points + of_classes) + 8 * len(canonical(parameters))
    try:
        return Published(json.loads(read_bytes(folder / CERTIFICATE_NAME, most)))
    except (ValueError, RecursionError):  # no JSON: the bytes differ, whatever is in them
        return Published(None)


def _check_claims(votes: Votes, points: Sequence[Mapping[str, Any]]) -> int:
    """Test each different claim by the check, another way than the search that found it; how many there are.

    What follows from an election was found by no search: it has been computed once more.
    """
    if parts_of(votes.parameters) is not None:
        return 0
    settings, bound = settings_of(votes.parameters), find_bound(votes.parameters.bound)
    claims = {
        json.dumps([value for name, value in point.items() if name not in ("index", "name", "label", "class")]): point
        for point in points
        if point["class"] != ABSTAIN
    }
    for point in claims.values():
        k_a, k_b = point["k_a"], point["k_b"]
        if not bound.holds(settings, k_a, k_b, Claim.of_point(point)):
            raise _difference(f"point {point['index']}: its claim is more than {k_a} votes to {k_b} prove")
    return len(claims)


# ------------------------------------------------------------------------------------------------------ comparing


def _compare(folder: Path, made: Mapping[str, Any]) -> None:
    """That both files are what was made again, to the last byte. Raises DifferenceError that names the first place."""
    expected, path = dump(made), folder / CERTIFICATE_NAME
    found = read_bytes(path, _most(expected))
    if found != expected:
        remedy = _REMEDY
        if made["tool"] != f"dpclean {__version__}":
            remedy += f"; it says that it was made by {made['tool']}, which may have worded it otherwise"
        raise DifferenceError(_named(path, made, expected, found), remedy)
    table = tsv(made).encode("utf-8", "surrogateescape")
    if (found := read_bytes(folder / TSV_NAME, _most(table))) != table:
        raise _difference(f"{TSV_NAME} differs from {CERTIFICATE_NAME} in line {_first_line(table, found)}")


def _named(path: Path, made: Mapping[str, Any], expected: bytes, found: bytes) -> str:
    """Where a certificate.json differs from the one made again: the field, or the line where no value does."""
    if len(found) < _most(expected):
        try:
            certificate = json.loads(found)
            if isinstance(certificate, dict) and type(certificate.get("format")) is int:
                check_is_certificate(path, certificate)
            in_order = {**dict.fromkeys(name for name in made if name != "summary"), **made}  # points tell more than it
            if (place := _first_difference("", in_order, certificate)) is not None:
                return place
        except (ValueError, RecursionError) as error:  # of the JSON, or of showing it
            return f"{CERTIFICATE_NAME} is no JSON of a certificate: {error}"
    return f"{CERTIFICATE_NAME} is not written as certify writes it, from line {_first_line(expected, found)} on"


def _most(expected: bytes) -> int:
    """How much of a file is read: enough to name a difference, however long somebody made it."""
    return 2 * len(expected) + (1 << 16)


def _first_line(expected: bytes, found: bytes) -> int:
    lines = zip_longest(expected.split(b"\n"), found.split(b"\n"))
    return next(number for number, (wanted, line) in enumerate(lines, 1) if wanted != line)


def _first_difference(where: str, expected: Any, found: Any) -> str | None:
    """The first place where two JSON values differ, with both values; None where none does."""
    if isinstance(expected, dict) and isinstance(found, dict):
        inside = (
            (
                where + key if where[-1:] in ("", " ") else f"{where}.{key}",
                expected.get(key, _MISSING),
                found.get(key, _MISSING),
            )
            for key in dict.fromkeys([*expected, *found])
        )
    elif isinstance(expected, list) and isinstance(found, list):
        inside = (
            (_place(where, number, wanted), wanted, value)
            for number, (wanted, value) in enumerate(zip_longest(expected, found, fillvalue=_MISSING))
        )
    elif type(expected) is type(found) and expected == found:
        return None
    else:
        return f"{where.removesuffix(': ') or CERTIFICATE_NAME} is {_shown(found)}, recomputed it is {_shown(expected)}"
    differences = (_first_difference(*each) for each in inside)
    return next((place for place in differences if place is not None), None)


def _place(where: str, number: int, entry: Any) -> str:
    if where == "points" and isinstance(entry, dict):
        return f"point {number} ({entry['name']!r}): "
    return f"{where}[{number}]"


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else repr(value) if len(repr(value)) <= 100 else repr(value)[:100] + "..."


def _difference(message: str) -> DifferenceError:
    return DifferenceError(message, _REMEDY)
