"""What labels add: certified accuracy by radius, and the accuracy certificate of one model.

Pure functions of counts, without floats that decide; `build` and `verify` run the same ones. Accuracies and lower
bounds are rounded down, upper bounds up. docs/certificates.md, sections "One point or all" and "The accuracy
certificate".
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.amplification import propose_at
from dpclean.certificate.bounds.base import BESIDE, Proof, proof_as_json, share_lower
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.decimals import budget, text
from dpclean.certificate.files import Published
from dpclean.certificate.interval_arithmetic import (
    ONE,
    at_least,
    down,
    number,
    phi_down,
    power,
    quantile_down,
    tail_up,
    times,
    up,
)
from dpclean.certificate.parameters import (
    CertificateParameters,
    beside_of,
    is_at_test_time,
    kinds_of_images,
    may_add_runs,
    parts_of,
    settings_of,
)
from dpclean.certificate.threats import find_threat
from dpclean.certificate.votes import VoteCounts
from dpclean.certificate.whole_images import WORD, Edits, kept_mean, untouched

PLACES = 6
ERROR = Fraction(1, 40)  # of each of the two ways in which the lower bound of certified accuracy can be wrong
ROWS = 20  # radii in the table of certified accuracy, about
STEP, STEPS = Fraction(1, 20), 60  # of the curve, in units of sigma
CLASS_STEP, CLASS_STEPS = Fraction(1, 4), 8  # of the curves by class

Json = dict[str, Any]


# ------------------------------------------------------------------------------------------- certified accuracy


def certified_accuracy(
    parameters: CertificateParameters, points: Sequence[Mapping[str, Any]], ceiling: str
) -> Json | None:
    """Shares of the labelled points with the right class and a radius of at least r; None without labels.

    Those that abstain stay in the denominator. lower: for the population that the points are a random sample of.
    """
    labelled = [point for point in points if point["label"] is not None]
    if not labelled:
        return None
    radii = [Fraction(point["certified_radius"]) for point in labelled if point["class"] == point["label"]]
    false_claims = _false_claims(parameters, len(labelled))
    return {
        "labelled": len(labelled),
        "j": false_claims,
        "confidence": confidence_of(parameters),
        "at": _by_radius(radii, len(labelled), false_claims, ceiling),
    }


def accuracy_with_images(
    parameters: CertificateParameters, points: Sequence[Mapping[str, Any]], ceiling: str
) -> list[Json] | None:
    """The same beside each number of changed images that was asked for; None without these or without labels."""
    labelled = [point for point in points if point["label"] is not None]
    beside = beside_of(parameters)
    if not labelled or not beside:
        return None
    false_claims = _false_claims(parameters, len(labelled))
    tables = []
    for place, images in enumerate(beside):
        right = [
            Fraction(point[BESIDE][place]["certified_radius"])
            for point in labelled
            if point["class"] == point["label"] and point["images_changed"] >= images
        ]
        tables.append({"images": images, "at": _by_radius(right, len(labelled), false_claims, ceiling)})
    return tables


def confidence_of(parameters: CertificateParameters) -> str:
    """Of each lower bound: what its share of the population and the claims themselves can be wrong by."""
    return text(1 - ERROR - (Fraction(parameters.alpha) if parameters.family == "all" else ERROR), PLACES)


def population_lower(parameters: CertificateParameters, right: int, labelled: int) -> str:
    """Of so many labelled points right: what share it is at least in the population they are a random sample of."""
    return text(_share_lower(right - _false_claims(parameters, labelled), labelled), PLACES)


def _false_claims(parameters: CertificateParameters, labelled: int) -> int:
    """j: more false claims than these are improbable enough."""
    return 0 if parameters.family == "all" else math.floor(Fraction(parameters.alpha) * labelled / ERROR)


def _by_radius(radii: Sequence[Fraction], labelled: int, false_claims: int, ceiling: str) -> list[Json]:
    right, rows = sorted(radii), []
    for radius in _radii(Fraction(ceiling)):
        certified = len(right) - bisect_left(right, radius)
        rows.append(
            {
                "radius": text(radius, PLACES),
                "budget": budget(radius),
                "certified": certified,
                "certified_accuracy": text(Fraction(certified, labelled), PLACES),
                "lower": text(_share_lower(certified - false_claims, labelled), PLACES),
            }
        )
    return rows


def accuracy_by_images(parameters: CertificateParameters, points: Sequence[Mapping[str, Any]]) -> Json | None:
    """Shares of the labelled points with the right class against m images inserted, changed, or missing.

    By the fields of a point that say so. None without labels, or where all images are in every run. lower as in
    certified_accuracy.
    """
    labelled = [point for point in points if point["label"] is not None]
    kinds = kinds_of_images(parameters)
    if not labelled or not kinds:
        return None
    count = len(labelled)
    false_claims = _false_claims(parameters, count)
    found: Json = {}
    for kind in kinds:
        right = sorted(point[kind] for point in labelled if point["class"] == point["label"])
        rows = []
        for images in _numbers(right[-1] if right else 0):
            certified = len(right) - bisect_left(right, images)
            rows.append(
                {
                    "images": images,
                    "certified": certified,
                    "certified_accuracy": text(Fraction(certified, count), PLACES),
                    "lower": text(_share_lower(certified - false_claims, count), PLACES),
                }
            )
        found[kind] = rows
    return found


def _numbers(most: int) -> Iterator[int]:
    """0, 1, 2, 5, 10, 20, 50, ... below most, and most."""
    digits = (digit * 10**place for place in itertools.count() for digit in (1, 2, 5))
    yield from [0, *itertools.takewhile(lambda number: number < most, digits)]
    if most:
        yield most


def _radii(ceiling: Fraction) -> Iterator[Fraction]:
    """0 and the multiples of 1, 2 or 5 times a power of ten up to the ceiling, about ROWS of them.

    A radius that covers no change of a grey level has no row.
    """
    steps = (digit * Fraction(10) ** place for place in itertools.count(-PLACES) for digit in (1, 2, 5))
    step = next(step for step in steps if ceiling <= ROWS * step)
    radii = (number * step for number in range(math.floor(ceiling / step) + 1))
    return (radius for radius in radii if radius == 0 or budget(radius) > 0)


@lru_cache(maxsize=1 << 14)  # many radii have equal counts
def _share_lower(count: int, of: int) -> Fraction:
    """Clopper-Pearson lower bound of a share, at level ERROR."""
    if count <= 0:
        return Fraction(0)
    share = share_lower(lambda p: tail_up(count, of, p), down(ERROR), count, of)
    assert share is not None  # zero always passes
    return share


# ------------------------------------------------------------------------------------------ accuracy certificate


def why_not(parameters: CertificateParameters, labels: NDArray[np.int64] | None) -> str | None:
    """The reason why there is no accuracy certificate, None where there is one."""
    if parameters.exploratory:
        return "these votes are only explored"
    if parts_of(parameters) is not None:
        return "each run trained on one part of the images, and of one model trained on all of them nothing is stated"
    if labels is None or not (labels >= 0).any():
        return "no test point has a label"
    if may_add_runs(parameters):
        return f"with the bound {parameters.bound!r} the number of runs is not fixed before the first, which it takes"
    if is_at_test_time(parameters):
        return "the runs trained no model"
    if find_threat(parameters.threat).noises_points:
        return "test images were noised too, and the statement is about test images as they are"
    return None


def accuracy_certificate(
    parameters: CertificateParameters,
    labels: NDArray[np.int64],
    counted: VoteCounts,
    published: Published | None = None,
) -> Json:
    """What one model trained by one run is right on, on average, on any data set at distance d; for all d at once.

    Where a run takes a share of the images also where so many were inserted, changed or are missing. Each mu_lower
    spends an alpha of its own: the one for all points, the one of each class, each attack's. published: the proofs of
    what is amplified; without, they are searched for.
    """
    classes, runs = parameters.classes, parameters.runs
    of_class = np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()
    correct, voted, labelled = counted.correct.tolist(), counted.voted.tolist(), sum(of_class)
    known: dict[Any, Json] = {}  # of many classes most have equal counts

    def made(total: int, points: int, said: _Said, steps: Steps, *place: str | int) -> Json:
        key = total, points, said.name, steps
        if key not in known:
            mean = _Mean(parameters, total, points)
            within = None if published is None else published.inside("accuracy_certificate", *place)
            known[key] = mean.as_dict(said, steps, within)
        return known[key]

    per_class: list[Json] = []
    attack: list[Json] = []
    whole = made(sum(correct), labelled, RIGHT, (STEP, STEPS))
    for label, name in enumerate(classes):
        if of_class[label]:
            place = ("per_class", len(per_class))
            kept = made(correct[label], of_class[label], RIGHT, (CLASS_STEP, CLASS_STEPS), *place)
            per_class.append({"class": label, "name": name, **kept})
        if others := labelled - of_class[label]:
            spared = runs * others - (voted[label] - correct[label])
            kept = made(spared, others, TAKEN, (CLASS_STEP, CLASS_STEPS), "attack", len(attack))
            attack.append({"class": label, "name": name, **kept})
    return {"alpha": parameters.alpha, **whole, "per_class": per_class, "attack": attack}


Steps = tuple[Fraction, int]  # of the distance over sigma, and how many


@dataclass(frozen=True)
class _Said:
    """How what is left of a mean is said: the name of the field, that of its bound, and the number."""

    name: str
    bound: str
    text: Callable[[Fraction], str]


def _text_up(value: Fraction) -> str:
    return text(Fraction(math.ceil(value * 10**PLACES), 10**PLACES), PLACES)


RIGHT = _Said("accuracy", "mu_lower", lambda left: text(left, PLACES))  # the share that is right, from below
TAKEN = _Said("share", "mu_upper", lambda left: _text_up(1 - left))  # turned round: what goes to a class, from above


class _Mean:
    """The mean over runs of a share of points, its lower bound, and what is left of it at a distance.

    a(d) = Phi(Q(mu_lower - tau) - d/sigma) - tau, rounded down; where a run takes a share of the images, (16).
    """

    def __init__(self, parameters: CertificateParameters, total: int, points: int) -> None:
        self.points = points
        self.sigma = parameters.sigma
        self.settings = settings_of(parameters)
        self.mean = Fraction(total, parameters.runs * points)
        self.mean_lower = _mean_lower(total, parameters.runs, points, Fraction(parameters.alpha))

    def as_dict(self, said: _Said, steps: Steps, published: Published | None) -> Json:
        made: Json = {
            "points": self.points,
            "mean": said.text(self.mean),
            said.bound: said.text(self.mean_lower),
        }
        share = self.settings.share
        if share is None:
            return made | {"curve": [{**at, said.name: said.text(left)} for at, left in self._curve(*steps)]}
        made["curve"] = self._amplified(share, 0, said, steps, published)
        made["images"] = [
            {"images": images, **{kind: said.text(left) for kind, left in kinds.items()}}
            for images, kinds in self._by_images(share)
        ]
        if self.settings.with_images:
            made[BESIDE] = [
                {
                    "images": images,
                    "curve": self._amplified(
                        share,
                        images,
                        said,
                        (CLASS_STEP, CLASS_STEPS),
                        None if published is None else published.inside(BESIDE, number),
                    ),
                }
                for number, images in enumerate(self.settings.with_images)
            ]
        return made

    def _curve(self, step: Fraction, steps: int) -> Iterator[tuple[Json, Fraction]]:
        """(distance, what is left of the mean there) at multiples of sigma, from 0; distances are rounded down."""
        left = self.mean_lower - self.settings.tau
        start = quantile_down(down(left)) if left >= Fraction(1, 10**PLACES) else None
        for place, distance in self._distances(step, steps):
            units = 0
            if start is not None:
                units = phi_down(start - up(distance / self.settings.sigma)) - self.settings.tau_up
            yield place, Fraction(max(0, units), ONE)

    def _distances(self, step: Fraction, steps: int) -> Iterator[tuple[Json, Fraction]]:
        for step_number in range(steps + 1):
            multiple = step_number * step
            distance = multiple * Fraction(self.sigma)
            yield {"distance": text(distance, PLACES), "distance_over_sigma": text(multiple, 2)}, distance

    # ---- where a run takes a share of the images

    def _amplified(
        self, share: int, changed: int, said: _Said, steps: Steps, published: Published | None
    ) -> list[Json]:
        """By distance, beside so many changed images, what is left; with the proof, null where none is needed.

        The distances go further than elsewhere, as what is left does; there are none without noise.
        """
        if self.settings.sigma == 0:
            return []
        edits = Edits.changed(changed)
        step, count = steps
        rows: list[Json] = []
        for place, distance in self._distances(step * math.isqrt(WORD // share), count):
            shift = distance / self.settings.sigma
            v = self.settings.moving * shift**2
            proof: Proof = ()
            if v > 0:
                proof = (
                    self._proof(share, edits, v)
                    if published is None
                    else published.proof("curve", len(rows), "witness")
                )
            plain, left = (self._left(share, edits, shift, v, tried) for tried in ((), proof))
            if left <= plain:
                left, proof = plain, ()
            rows.append({**place, said.name: said.text(left), "witness": proof_as_json(proof)})
        return rows

    def _proof(self, share: int, edits: Edits, v: Fraction) -> Proof:
        """With about the most that is left."""
        there = untouched(share, edits.inserted)
        y = 1 - (1 - self.mean_lower) / there - self.settings.tau if there else Fraction(0)
        return () if y <= 0 else (propose_at(float(y), float(v)),)

    def _left(self, share: int, edits: Edits, shift: Fraction, v: Fraction, proof: Proof) -> Fraction:
        return kept_mean(share, edits, self.settings.tau_up, self.mean_lower, shift, v, proof)

    def _by_images(self, share: int) -> Iterator[tuple[int, dict[str, Fraction]]]:
        """(m, what is left if m images were inserted, changed, or are missing), as far as anything is."""

        def left(kind: str, images: int) -> Fraction:
            if kind != "missing" and images > self.settings.images:
                return Fraction(0)
            edits = {"inserted": Edits(images), "changed": Edits.changed(images), "missing": Edits(0, images)}[kind]
            return self._left(share, edits, Fraction(0), Fraction(0), ())

        kinds = ("inserted", "changed", "missing")
        least = Fraction(1, 10**PLACES)
        inserted = largest(lambda images: left("inserted", images) >= least, 0, floor=0) or 0  # no other goes further
        missing = largest(lambda images: left("missing", images) >= least, 0, floor=0) or 0
        for images in _numbers(max(inserted, min(missing, self.settings.images))):
            yield images, {kind: left(kind, images) for kind in kinds}


@lru_cache(maxsize=1 << 10)
def _mean_lower(total: int, runs: int, points: int, level: Fraction) -> Fraction:
    """The largest number of PLACES decimals for which mean_holds."""
    unit = 10**PLACES
    spread = math.sqrt(math.log(1 / level) / (2 * runs))  # Pinsker: the bound is not below mean - spread
    units = largest(
        lambda units: mean_holds(total, runs, points, level, Fraction(units, unit)),
        int((total / (runs * points) - spread) * unit),
        floor=0,
    )
    assert units is not None  # zero always passes
    return Fraction(units, unit)


def mean_holds(total: int, runs: int, points: int, level: Fraction, mean_lower: Fraction) -> bool:
    """Whether the mean of independent values in [0, 1] is at least mean_lower >= 0 at the level.

    total / (runs points) is the mean of the runs' values, each a share of the points. Hoeffding 1963, Theorem 1, raised
    to the power of points: (m/mu)^total ((1-m)/(1-mu))^(runs points - total) >= level^-points, m > mu.
    """
    if mean_lower == 0:
        return True
    count = runs * points
    observed = Fraction(total, count)
    if mean_lower >= observed:
        return False
    evidence = power(number(observed / mean_lower, False), total, False)
    if total < count:
        against = number((1 - observed) / (1 - mean_lower), False)
        evidence = times(evidence, power(against, count - total, False), False)
    return at_least(evidence, power(number(1 / level, True), points, True))
