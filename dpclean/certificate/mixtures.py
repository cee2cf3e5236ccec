"""What is proved against a mixture of attacks that a reader asks about: images put in, changed, taken away, and moved.

Nothing of it need be published: it follows from the votes, and all mixtures of a point from one and the same event, so
that asking for many costs no alpha. docs/certificates.md, "Asking for a mixture".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from dpclean.certificate.accuracy import confidence_of, population_lower
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import BESIDE
from dpclean.certificate.decimals import exact_decimal, shortest, text
from dpclean.certificate.parameters import (
    CertificateParameters,
    is_at_test_time,
    kinds_of_images,
    parts_of,
    settings_of,
    share_of,
)
from dpclean.certificate.threats import find_threat
from dpclean.certificate.votes import ABSTAIN
from dpclean.certificate.whole_images import MOST, Edits
from dpclean.errors import UsageError

PLACES = 6


@dataclass(frozen=True)
class Mixture:
    """What an attacker did at most: images put in, changed at will, taken away; and all others moved.

    radius: a decimal; all others together moved by less than it, in the units of sigma. Raises UsageError.
    """

    inserted: int = 0
    changed: int = 0
    missing: int = 0
    radius: str = "0"

    def __post_init__(self) -> None:
        for name in ("inserted", "changed", "missing"):
            if not 0 <= getattr(self, name) <= MOST:
                raise UsageError(
                    f"{name} images are a number from 0 to {MOST}, got {getattr(self, name)}", "25 is a common choice"
                )
        if exact_decimal("radius", self.radius) < 0:
            raise UsageError(f"a radius is a distance from 0, got {self.radius}", "pixels go from 0 to 1")

    @property
    def edits(self) -> Edits:
        return Edits(self.inserted + self.changed, self.missing + self.changed)


@dataclass(frozen=True)
class Withstood:
    """How many points keep their class against a mixture, and how many of the labelled ones their own.

    accuracy and lower are decimals, rounded down; lower: for the population that the labelled points are a random
    sample of, with that confidence. None without labels, and lower where nothing is proved.
    """

    inserted: int
    changed: int
    missing: int
    radius: str
    points: int
    held: int
    labelled: int
    right: int | None
    accuracy: str | None
    lower: str | None
    confidence: str | None
    statement: list[str]  # what is proved, in full sentences


def withstood(parameters: CertificateParameters, points: Sequence[Mapping[str, Any]], mixture: Mixture) -> Withstood:
    """What is proved of the points of a certificate that was checked. Raises UsageError for what it cannot speak of."""
    _check(parameters, mixture)
    held = [point for point in points if point["class"] != ABSTAIN]
    if parts_of(parameters) is not None:
        touched = mixture.inserted + 2 * mixture.changed + mixture.missing
        held = [point for point in held if touched <= point["images_inserted"]]
    else:
        settings, bound = settings_of(parameters), find_bound(parameters.bound)
        edits, radius = mixture.edits, exact_decimal("radius", mixture.radius)
        if radius > 0 or edits != Edits():

            @cache
            def holds(k_a: int, low: str, high: str | None) -> bool:
                return bound.withstands(
                    settings, k_a, Fraction(low), None if high is None else Fraction(high), edits, radius
                )

            held = [
                point
                for point in held
                if _published(point, edits, radius) or holds(point["k_a"], point["pa_lower"], point["pb_upper"])
            ]
    labelled = sum(point["label"] is not None for point in points)
    right = sum(point["class"] == point["label"] for point in held)
    proved = not parameters.exploratory
    return Withstood(
        inserted=mixture.inserted,
        changed=mixture.changed,
        missing=mixture.missing,
        radius=shortest("radius", mixture.radius),
        points=len(points),
        held=len(held),
        labelled=labelled,
        right=right if labelled else None,
        accuracy=text(Fraction(right, labelled), PLACES) if labelled else None,
        lower=population_lower(parameters, right, labelled) if labelled and proved else None,
        confidence=confidence_of(parameters) if labelled and proved else None,
        statement=list(_statement(parameters, mixture, len(held), len(points))),
    )


def _published(point: Mapping[str, Any], edits: Edits, radius: Fraction) -> bool:
    """Whether one of the point's own radii says it already: on another machine a search may end a little below it."""
    own = [(0, point["certified_radius"]), *((row["images"], row["certified_radius"]) for row in point.get(BESIDE, ()))]
    return radius > 0 and any(
        max(edits.inserted, edits.missing) <= images and radius <= Fraction(reach) for images, reach in own
    )


def _check(parameters: CertificateParameters, mixture: Mixture) -> None:
    edits, moved = mixture.edits, exact_decimal("radius", mixture.radius) > 0
    if edits != Edits() and is_at_test_time(parameters):
        raise UsageError(
            "these runs trained nothing, so that nothing is proved about training images", "ask for a --radius alone"
        )
    if edits != Edits() and not kinds_of_images(parameters):
        raise UsageError(
            "all images were in every run, so that nothing is proved about whole images that were put in or changed",
            "certify with --subsample or --partitions, or ask for a --radius alone",
        )
    if moved and (Fraction(parameters.sigma) == 0 or parts_of(parameters) is not None):
        raise UsageError(
            "these runs prove nothing about images that all move a little", "leave --radius out, or certify with noise"
        )
    raw = parameters.raw
    if raw is not None and edits.inserted > raw.images:
        raise UsageError(
            f"{edits.inserted} images cannot have been put in or changed: there are {raw.images} in all",
            "ask for fewer",
        )


def _statement(parameters: CertificateParameters, mixture: Mixture, held: int, points: int) -> Iterator[str]:
    done = [
        f"{what} up to {count:,} training image{'s' * (count != 1)}"
        for count, what in (
            (mixture.inserted, "put in"),
            (mixture.changed, "changed or relabelled at will"),
            (mixture.missing, "took away"),
        )
        if count
    ]
    if exact_decimal("radius", mixture.radius) > 0:
        which = "all others" if done else "all training images"
        also = " and this test image" if find_threat(parameters.threat).noises_points else ""
        what, together = f"{which}{also}", " together"
        if is_at_test_time(parameters):
            what, together = "this test image", ""
        radius = shortest("radius", mixture.radius)
        done.append(f"moved {what} by less than {radius}{together} (Euclidean, pixels from 0 to 1)")
    if parameters.exploratory:
        yield f"Nothing is proved, as these votes are only explored: {held:,} of {points:,} test points would hold."
        return
    by = "the class that such runs vote for most often" if parts_of(parameters) is None else "the winner of the vote"
    attack = f"If an attacker {', '.join(done[:-1])}{' and ' * (len(done) > 1)}{done[-1]}" if done else "As things are"
    without = ", then without that" if done else ""
    yield f"{attack}{without} {by} is the one claimed, on {held:,} of {points:,} test points."
    if parts_of(parameters) is not None:
        yield "This is so for these models, without any probability."
    elif parameters.family == "all":
        yield f"The probability that any of these statements is false is at most {parameters.alpha}."
    else:
        yield (
            f"Each of these statements is false with a probability of at most {parameters.alpha}, whatever else is"
            " asked of these votes: all mixtures follow from the same event."
        )
    if share_of(parameters) is not None:
        yield "The runs without the attack are made in the same way, with the same share, classes and recipe."
