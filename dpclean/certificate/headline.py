"""What a certificate against whole images, or of test images, says in a sentence or two, the commonest attack first.

And what it says of attacks of the sizes that have been published. All of it follows from certificate.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from dpclean.certificate.assumptions_at_test_time import NOT_POISON
from dpclean.certificate.decimals import text
from dpclean.certificate.files import parameters_in
from dpclean.certificate.parameters import (
    CertificateParameters,
    is_at_test_time,
    kinds_of_images,
    parts_of,
    share_of,
)
from dpclean.certificate.whole_images import members_of_run
from dpclean.report.percent import share

DONE = {  # to so many images, for a sentence and for the head of a column
    "images_inserted": ("had been put there by an attacker", "put in"),
    "images_changed": ("had been changed or relabelled", "changed"),
    "images_missing": ("had been taken away", "taken away"),
    "images_changed_in_place": ("had been changed or relabelled, and kept their names", "changed in place"),
}
DISTANCES = ("0.05", "0.1", "0.25", "0.5", "0.75", "1", "1.5", "2", "3", "5")  # from a test image
PUBLISHED = ((25, "25 images: 1 % of a data set of 2,500"), (500, "500 images: 1 % of a data set of 50,000"))

Certificate = Mapping[str, Any]


def headline(certificate: Certificate) -> str | None:
    """The first sentence of the page; None where neither whole images are counted nor test images may be changed,
    where nothing holds, or nothing is proved.

    The number of images is the largest of the table of accuracy that leaves half of what holds without an attack.
    """
    parameters = parameters_in(certificate)
    kinds = kinds_of_images(parameters)
    if certificate["kind"] == "exploratory":
        return None
    if is_at_test_time(parameters):
        return _of_test_images(certificate, parameters)
    if not kinds:
        return None
    changed = "images_changed_in_place" if "images_changed_in_place" in kinds else "images_changed"
    first, second = (_most(certificate, kind) for kind in ("images_inserted", changed))
    if first is None and second is None:
        return None
    of = f" of the {parameters.raw.images:,} training images" if parameters.raw else " of the training images"
    whose = "the right class" if _labelled(certificate) else "the class that they get here"
    by, points = _by(parameters), "test images"
    if 0 < len(_labelled(certificate)) < len(certificate["points"]):
        points = "labelled test images"
    if first is None:
        assert second is not None
        return (
            f"If any {second[0]:,}{of} {DONE[changed][0]}, then without that {share(second[1])} of the {points} would"
            f" still get {whose} by {by}. {_proof(parameters)}"
        )
    said = (
        f"If up to {first[0]:,}{of} {DONE['images_inserted'][0]}, then without them {share(first[1])} of the {points}"
        f" would still get {whose} by {by}"
    )
    if second is not None:
        said += f"; and so would {share(second[1])} if any {second[0]:,} {DONE[changed][0]}"
    return f"{said}. {_proof(parameters)}"


def _of_test_images(certificate: Certificate, parameters: CertificateParameters) -> str | None:
    """The largest round distance that leaves half of what is certified at all."""
    labelled = _labelled(certificate)
    counted = labelled or certificate["points"]
    radii = [
        Fraction(point["certified_radius"])
        for point in counted
        if point["class"] >= 0 and (not labelled or point["class"] == point["label"])
    ]
    kept = [
        distance for distance in DISTANCES if 2 * sum(radius >= Fraction(distance) for radius in radii) >= len(radii)
    ]
    if not radii or not kept:
        return None
    held = Fraction(sum(radius >= Fraction(kept[-1]) for radius in radii), len(counted))
    whose = "the right class" if labelled else "the class that they get here"
    points = "labelled test images" if 0 < len(labelled) < len(certificate["points"]) else "test images"
    return (
        f"{share(text(held, 6))} of the {points} still get {whose} by the smoothed prediction if each is changed by"
        f" less than {kept[-1]} (the root of the sum of the squared changes of its pixel values, which go from 0 to 1)."
        f" {_proof(parameters)} {NOT_POISON}"
    )


def members(certificate: Certificate) -> str | None:
    """How many images a run took, in words; None where that is not by chance, or not known."""
    parameters = parameters_in(certificate)
    taken = share_of(parameters)
    if taken is None or parameters.raw is None:
        return None
    mean, spread = members_of_run(taken, parameters.raw.images)
    return f"{mean:,.1f} of the {parameters.raw.images:,} images on average, with a standard deviation of {spread:,.1f}"


def attack_sizes(certificate: Certificate) -> list[tuple[int, str]]:
    """Numbers of images that attackers touch in what has been published, ascending, each with what it is."""
    parameters = parameters_in(certificate)
    sizes = {1: "1 image", **dict(PUBLISHED)}
    if parameters.raw is not None and (hundredth := parameters.raw.images // 100) > 0 and hundredth not in sizes:
        sizes[hundredth] = f"{hundredth:,} image{'s' if hundredth > 1 else ''}: 1 % of this data set"
    there = parameters.raw.images if parameters.raw else None
    return sorted((size, what) for size, what in sizes.items() if there is None or size <= there)


def holding(certificate: Certificate, kind: str, images: int) -> Fraction:
    """The share of the test images that hold against so many: with the right class, where their label is known."""
    counted = _labelled(certificate) or certificate["points"]
    known = bool(_labelled(certificate))
    held = sum(
        point["class"] >= 0 and point[kind] >= images and (not known or point["class"] == point["label"])
        for point in counted
    )
    return Fraction(held, len(counted))


def _labelled(certificate: Certificate) -> Sequence[Mapping[str, Any]]:
    return [point for point in certificate["points"] if point["label"] is not None]


def _most(certificate: Certificate, kind: str) -> tuple[int, str] | None:
    """(images, share that holds) of the most that leave half of what holds at all; None where not one does."""
    whole = holding(certificate, kind, 0)
    numbers = sorted({point[kind] for point in certificate["points"] if point["class"] >= 0})
    rounded = {_rounded(number) for number in numbers if number}
    kept = [number for number in rounded if whole and 2 * holding(certificate, kind, number) >= whole]
    return (max(kept), text(holding(certificate, kind, max(kept)), 6)) if kept else None


def _rounded(number: int) -> int:
    """The largest 1, 2 or 5 times a power of ten up to a number above 0."""
    power = int("1" + "0" * (len(str(number)) - 1))
    return max(digit for digit in (1, 2, 5) if digit * power <= number) * power


def _by(parameters: CertificateParameters) -> str:
    parts = parts_of(parameters)
    if parts is not None:
        return f"the vote of {parts.parts:,} models, trained in the same way on the parts that there would be"
    return "the vote of many such runs, made in the same way with the same share, classes and recipe"


def _proof(parameters: CertificateParameters) -> str:
    if parts_of(parameters) is not None:
        return "This is proved, without exception."
    of = "for all test images together" if parameters.family == "all" else "for each test image"
    return f"This is proved (risk {parameters.alpha} {of})."
