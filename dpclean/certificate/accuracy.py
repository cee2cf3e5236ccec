"""What labels add: certified accuracy by radius, and the accuracy certificate of one model.

Pure functions of counts, without floats that decide; `build` and `verify` run the same ones. Accuracies and lower
bounds are rounded down, upper bounds up. docs/certificates.md, sections "One point or all" and "The accuracy
certificate".
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.bounds.base import BESIDE, share_lower
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.decimals import budget, text
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
    kinds_of_images,
    may_add_runs,
    parts_of,
    settings_of,
    share_of,
)
from dpclean.certificate.threats import find_threat
from dpclean.certificate.votes import VoteCounts

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
    confidence = 1 - ERROR - (Fraction(parameters.alpha) if parameters.family == "all" else ERROR)
    return {
        "labelled": len(labelled),
        "j": false_claims,
        "confidence": text(confidence, PLACES),
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
    if share_of(parameters) is not None:
        return "each run took a random share of the images, and of one model trained so nothing is stated here yet"
    if parts_of(parameters) is not None:
        return "each run trained on one part of the images, and of one model trained on all of them nothing is stated"
    if labels is None or not (labels >= 0).any():
        return "no test point has a label"
    if may_add_runs(parameters):
        return f"with the bound {parameters.bound!r} the number of runs is not fixed before the first, which it takes"
    if find_threat(parameters.threat).noises_points:
        return "test images were noised too, and the statement is about test images as they are"
    return None


def accuracy_certificate(parameters: CertificateParameters, labels: NDArray[np.int64], counted: VoteCounts) -> Json:
    """What one model trained by one run is right on, on average, on any data set at distance d; for all d at once.

    Each mu_lower spends an alpha of its own: the one for all points, the one of each class, each attack's.
    """
    classes, runs = parameters.classes, parameters.runs
    of_class = np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()
    correct, voted, labelled = counted.correct.tolist(), counted.voted.tolist(), sum(of_class)
    mean = _Mean(parameters, sum(correct), labelled)

    @cache  # of many classes most have equal counts
    def right(total: int, points: int) -> Json:
        return _Mean(parameters, total, points).as_dict(CLASS_STEP, CLASS_STEPS)

    @cache
    def spared(total: int, points: int) -> Json:
        return _Mean(parameters, total, points).as_attack(CLASS_STEP, CLASS_STEPS)

    per_class, attack = [], []
    for label, name in enumerate(classes):
        if of_class[label]:
            per_class.append({"class": label, "name": name, **right(correct[label], of_class[label])})
        if others := labelled - of_class[label]:
            kept = spared(runs * others - (voted[label] - correct[label]), others)
            attack.append({"class": label, "name": name, **kept})
    return {"alpha": parameters.alpha, **mean.as_dict(STEP, STEPS), "per_class": per_class, "attack": attack}


class _Mean:
    """The mean over runs of a share of points, its lower bound, and what is left of it at a distance.

    a(d) = Phi(Q(mu_lower - tau) - d/sigma) - tau, rounded down.
    """

    def __init__(self, parameters: CertificateParameters, total: int, points: int) -> None:
        self.points = points
        self.sigma = parameters.sigma
        self.settings = settings_of(parameters)
        self.mean = Fraction(total, parameters.runs * points)
        level, unit = Fraction(parameters.alpha), 10**PLACES

        def passes(units: int) -> bool:
            return mean_holds(total, parameters.runs, points, level, Fraction(units, unit))

        spread = math.sqrt(math.log(1 / level) / (2 * parameters.runs))  # Pinsker: the bound is not below mean - spread
        units = largest(passes, int((float(self.mean) - spread) * unit), floor=0)
        assert units is not None  # zero always passes
        self.mean_lower = Fraction(units, unit)

    def as_dict(self, step: Fraction, steps: int) -> Json:
        curve = [{**place, "accuracy": text(left, PLACES)} for place, left in self._curve(step, steps)]
        return {
            "points": self.points,
            "mean": text(self.mean, PLACES),
            "mu_lower": text(self.mean_lower, PLACES),
            "curve": curve,
        }

    def as_attack(self, step: Fraction, steps: int) -> Json:
        """The same turned round: the share of these points that go to the class, from above."""
        curve = [{**place, "share": _text_up(1 - left)} for place, left in self._curve(step, steps)]
        return {
            "points": self.points,
            "mean": _text_up(1 - self.mean),
            "mu_upper": _text_up(1 - self.mean_lower),
            "curve": curve,
        }

    def _curve(self, step: Fraction, steps: int) -> Iterator[tuple[Json, Fraction]]:
        """(distance, what is left of the mean there) at multiples of sigma, from 0; distances are rounded down."""
        left = self.mean_lower - self.settings.tau
        start = quantile_down(down(left)) if left >= Fraction(1, 10**PLACES) else None
        for step_number in range(steps + 1):
            multiple = step_number * step
            distance = multiple * Fraction(self.sigma)
            units = 0
            if start is not None:
                units = phi_down(start - up(distance / self.settings.sigma)) - self.settings.tau_up
            place = {
                "distance": text(distance, PLACES),
                "distance_over_sigma": text(multiple, 2),
            }
            yield place, Fraction(max(0, units), ONE)


def _text_up(value: Fraction) -> str:
    return text(Fraction(math.ceil(value * 10**PLACES), 10**PLACES), PLACES)


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
