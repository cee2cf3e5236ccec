"""The certificate: a pure function of the votes and of the terms that were fixed before run 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from dpclean.certificate import assumptions as statements
from dpclean.certificate import bounds
from dpclean.certificate.accuracy import accuracy_certificate, certified_accuracy, why_not
from dpclean.certificate.bounds import Claim, exact_decimal, setting_of, text
from dpclean.certificate.interval_arithmetic import BOUNDS, Setting
from dpclean.certificate.parameters import (
    FAMILIES,
    FORMAT,
    MOST_RUNS,
    THREATS,
    CertificateParameters,
    canonical,
    from_json,
    selecting,
)
from dpclean.certificate.votes import ABSTAIN, Tally, Votes, job_id, read_bytes, tally
from dpclean.errors import ConflictError, InputError, UsageError, printable

CERTIFICATE_NAME = "certificate.json"
TSV_NAME = "certified.tsv"
NO_RADIUS = "0.000000"
LEAST_LEVEL = Fraction(1, 10**30)  # of a point: far below what anybody asks, far above where the arithmetic ends
COLUMNS = (
    "index", "name", "label", "class", "certified_radius", "budget", "k_a", "k_b", "pa_lower", "pb_upper"
)  # fmt: skip
CIFAR_VALUES = 32 * 32 * 3  # an image whose size is not known
PAPER_IMAGES = 500  # that the attacks of arXiv 2403.11981 change

Json = dict[str, Any]
_RESTORE = "restore the file, or certify again"


def build(votes: Votes, votes_sha256: str) -> Json:
    """The whole certificate; the same votes and terms give the same bytes. Raises what check_parameters does."""
    check_parameters(votes.parameters)
    counted = tally(votes)
    return _assemble(votes, votes_sha256, counted, claimed_points(votes, counted))


def claim_of(setting: Setting, k_a: int, k_b: int) -> Claim | None:
    """What is published of these counts, None to abstain: a radius that covers no grey level is no claim."""
    made = bounds.claim(setting, k_a, k_b)
    return made if made is not None and bounds.budget(made.radius) > 0 else None


def claimed_points(votes: Votes, counted: Tally) -> list[Json]:
    """One object a point with the largest claim that its counts allow."""
    setting = setting_of(votes.parameters)

    @cache
    def claim(k_a: int, k_b: int) -> Json | None:
        made = claim_of(setting, k_a, k_b)
        return None if made is None else {
            "pa_lower": text(made.pa_lower, 18),
            "pb_upper": None if made.pb_upper is None else text(made.pb_upper, 18),
            "certified_radius": text(made.radius, 6),
            "budget": bounds.budget(made.radius),
        }  # fmt: skip

    nothing = {"pa_lower": None, "pb_upper": None, "certified_radius": NO_RADIUS, "budget": 0}
    names, labels = votes.parameters.point_names, known_labels(votes)
    columns = zip(counted.winner.tolist(), counted.k_a.tolist(), counted.k_b.tolist(), strict=True)
    points = []
    for index, (winner, k_a, k_b) in enumerate(columns):
        made = claim(k_a, k_b) if winner >= 0 else None
        points.append(
            {
                "index": index,
                "name": names[index],
                "label": labels[index],
                "class": ABSTAIN if made is None else winner,
                "k_a": k_a,
                "k_b": k_b,
                **(made or nothing),
            }
        )
    return points


def known_labels(votes: Votes) -> list[int | None]:
    """The label of each point, None where it is not known."""
    if votes.labels is None:
        return [None] * votes.parameters.points
    return [label if label >= 0 else None for label in votes.labels.tolist()]


def _assemble(votes: Votes, votes_sha256: str, counted: Tally, points: list[Json]) -> Json:
    """The certificate around its points: everything that follows from them and from the votes."""
    parameters = votes.parameters
    highest = ceiling(parameters)
    claimed = sorted((point["certified_radius"] for point in points if point["class"] != ABSTAIN), key=Fraction)
    absent = why_not(parameters, votes.labels)
    found = None
    if absent is None:
        assert votes.labels is not None
        found = accuracy_certificate(parameters, votes.labels, counted)
    return {
        "format": FORMAT,
        "kind": "exploratory" if parameters.exploratory else "certificate",
        "tool": parameters.tool,
        "job": job_id(parameters),
        "votes_sha256": votes_sha256,
        "terms": json.loads(canonical(parameters, without=("point_names",))),
        "summary": {
            "points": len(points),
            "certified": len(claimed),
            "abstained": len(points) - len(claimed),
            "failed_runs": int((votes.votes == ABSTAIN).all(axis=1).sum()),
            "ceiling": highest,
            "largest_radius": claimed[-1] if claimed else NO_RADIUS,
            "median_radius": claimed[(len(claimed) - 1) // 2] if claimed else NO_RADIUS,  # of those with one
        },
        "points": points,
        "accuracy": certified_accuracy(parameters, points, highest),
        "accuracy_certificate": found,
        "accuracy_certificate_absent": absent,
        "attack_sizes": attack_sizes(parameters, max((point["budget"] for point in points), default=0)),
        "assumptions": statements.assumptions(parameters),
        "not_covered": statements.not_covered(parameters),
    }


def attack_sizes(parameters: CertificateParameters, budget: int) -> list[Json]:
    """Distances of changes that people have in mind, and whether the largest budget covers each."""
    raw, values = parameters.raw, parameters.values
    images = raw.images if raw else None
    return attack_rows(values // images if images and values else CIFAR_VALUES, images, budget)


def attack_rows(size: int, images: int | None, budget: int) -> list[Json]:
    """The same for images of so many values; of a data set of fewer than PAPER_IMAGES all are changed."""
    many = min(PAPER_IMAGES, images or PAPER_IMAGES)
    rows = []
    for count, levels in ((1, 1), (1, 8), (1, 16), (many, 8), (many, 16)):
        what = f"{count} image{'s' if count > 1 else ''} of {size:,} values, each value by {levels} level"
        paper = ", the attack of the paper" if (count, levels) == (PAPER_IMAGES, 16) else ""
        squares = count * size * levels**2
        rows.append(
            {
                "change": what + ("s" if levels > 1 else "") + paper,
                "distance": _root_text(squares),
                "covered_by_largest": squares <= budget,
            }
        )
    return rows


def _root_text(squares: int) -> str:
    """The distance of a sum of squared grey levels, with 3 decimals, rounded to nearest."""
    thousandths = (math.isqrt(squares * 4_000_000) // 255 + 1) // 2
    return text(Fraction(thousandths, 1000), 3)


# ------------------------------------------------------------------------------------------------------ the file


def dump(certificate: Mapping[str, Any]) -> bytes:
    """certificate.json: one line a point, so that it can be looked at and compared."""
    points = ",\n".join(json.dumps(point) for point in certificate["points"])
    rest = json.dumps({**certificate, "points": []}, indent=1)
    return rest.replace('"points": []', f'"points": [\n{points}\n]', 1).encode() + b"\n"


def read(path: Path) -> Json:
    """A certificate as it was dumped; what it says is not checked. Raises InputError, or what check_format does."""
    try:
        certificate = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is no JSON: {error}", _RESTORE) from error
    check_format(path, certificate)
    assert isinstance(certificate, dict)
    return certificate


def parameters_in(certificate: Mapping[str, Any]) -> CertificateParameters:
    """The parameters that a certificate says it was made under; what they say is not checked. Raises FormError."""
    return from_json({**certificate["terms"], "point_names": [point["name"] for point in certificate["points"]]})


def check_format(path: Path, certificate: Any) -> None:
    """Raises InputError for what is no certificate, ConflictError for one of another format."""
    found = certificate.get("format") if isinstance(certificate, dict) else None
    if type(found) is int and found > 0 and found != FORMAT:
        raise ConflictError(
            f"{str(path)!r} has format {found}, this dpclean reads format {FORMAT}",
            f"it names {certificate.get('tool')!s:.100}: use a dpclean that reads that format, or certify again",
        )
    if type(found) is not int or found != FORMAT:
        raise InputError(f"{str(path)!r} is no certificate", _RESTORE)


def tsv(certificate: Mapping[str, Any]) -> str:
    """certified.tsv: one line a point; what is not known or not there is empty, names are escaped as on a terminal."""
    lines = ["\t".join(COLUMNS)]
    for point in certificate["points"]:
        row = {**point, "name": printable(point["name"])}
        lines.append("\t".join("" if row[name] is None else str(row[name]) for name in COLUMNS))
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------- what runs can show; what is refused


def ceiling(parameters: CertificateParameters) -> str:
    """The radius of a point on which all runs agree, which none exceeds; "0.000000" where even that abstains."""
    return unanimous(setting_of(parameters))


@cache
def unanimous(setting: Setting) -> str:
    """The same for a setting."""
    made = claim_of(setting, setting.runs, 0)
    return NO_RADIUS if made is None else text(made.radius, 6)


def least_runs(bound: str, level: Fraction, sigma: Fraction = Fraction(1), tau: Fraction = Fraction(0)) -> int | None:
    """The least number of runs that can claim anything at this level; None above MOST_RUNS.

    level: alpha, or alpha/P. For `cohen` a tenth of them, at least one, selects.
    """

    def can(runs: int) -> bool:
        counted = runs - selecting(bound, runs)
        return counted > 0 and unanimous(Setting(bound, counted, level, sigma, tau)) != NO_RADIUS

    return bounds.least(can, MOST_RUNS)


def check_parameters(parameters: CertificateParameters) -> None:
    """Refuse terms under which nothing can be claimed, or nothing could be proved. Raises UsageError."""
    for name, known in (("bound", BOUNDS), ("family", FAMILIES), ("threat", THREATS)):
        if (value := getattr(parameters, name)) not in known:
            raise UsageError(f"{name} {value!r} is not known", f"give one of: {', '.join(known)}")
    alpha, sigma = exact_decimal("alpha", parameters.alpha), exact_decimal("sigma", parameters.sigma)
    if not 0 < alpha <= Fraction(1, 2):
        raise UsageError(
            f"alpha is the probability of a false claim, above 0 and at most 0.5, got {parameters.alpha}",
            "it is not the confidence, which is 1 - alpha; 0.001 is a common choice",
        )
    if alpha < LEAST_LEVEL * (parameters.points if parameters.family == "all" else 1):
        raise UsageError(f"alpha {parameters.alpha} is too small to compute with", "0.001 is a common choice")
    if sigma <= 0:
        raise UsageError(
            f"without noise nothing can be certified, got sigma {parameters.sigma}", "give the sigma above 0"
        )
    if len(parameters.classes) < 2:
        raise UsageError("a vote needs at least two classes", "say how many classes there are")
    if parameters.points < 1:
        raise UsageError("there are no test points to vote on", "give some")
    _check_tau(parameters.tau)
    _check_runs(parameters)


def _check_tau(tau: str | None) -> None:
    if tau is None or not 0 <= exact_decimal("tau", tau) < Fraction(1, 4):
        raise UsageError(
            f"tau must be known, from 0 and below 0.25, got {tau}",
            "it is the total variation distance of all noise of a run to a Gaussian; larger ones prove nothing",
        )


def _check_runs(parameters: CertificateParameters) -> None:
    runs, selection = parameters.runs, parameters.selection_runs
    if not 1 <= runs <= MOST_RUNS:
        raise UsageError(f"runs must be from 1 to {MOST_RUNS}, got {runs}", "1000 is a common choice")
    if parameters.bound != "cohen" and selection:
        raise UsageError(f"{parameters.bound} selects from all runs, got {selection} for selection", "leave them out")
    if parameters.bound == "cohen" and not 1 <= selection < runs:
        raise UsageError(
            f"cohen selects with some of its runs, got {selection} of {runs}", "a tenth is a common choice"
        )
    if ceiling(parameters) != NO_RADIUS:
        return
    setting = setting_of(parameters)
    least = least_runs(setting.bound, setting.level, setting.sigma, setting.tau)
    level = f"alpha {parameters.alpha}" + (f" for all {parameters.points} points" if parameters.family == "all" else "")
    raise UsageError(
        f"{runs} runs cannot certify anything with {setting.bound} at {level}, even if all agree",
        f"give at least {least} runs"
        if least
        else "no number of runs can: sigma is too small to cover any change of a grey level, or tau too large",
    )
