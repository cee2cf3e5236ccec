"""The page that explains a certificate to somebody who has never read about one.

It shows what certificate.json says and proves nothing of its own; shares are rounded in the direction that claims less.
Votes whose terms were not fixed in advance make an exploratory page: the same figures, said to be unproved, and not
called a certificate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dpclean.certificate.assumptions_at_test_time import NOT_POISON
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.decimals import text
from dpclean.certificate.files import parameters_in
from dpclean.certificate.headline import DONE, headline, holding, members
from dpclean.certificate.headline import attack_sizes as published
from dpclean.certificate.parameters import (
    CertificateParameters,
    EvasionParameters,
    ForeignParameters,
    attempt_of,
    counts_images,
    in_training,
    is_at_test_time,
    kinds_of_images,
    parts_of,
    share_of,
)
from dpclean.certificate.partitions import ELECTIONS
from dpclean.certificate.partitions import WORDS as PART_WORDS
from dpclean.certificate.threats import find_threat
from dpclean.certificate.whole_images import WORD
from dpclean.certificate_page.curve import IMAGES, curve, images_curve
from dpclean.certificate_page.glossary import (
    ATTEMPTS,
    EVASION_ATTACKS,
    EVASION_FROM_ELSEWHERE,
    EVASION_FROM_SEED,
    EVASION_QUESTION,
    EVASION_WORDS,
    FROM_ELSEWHERE,
    FROM_SEED,
    IMAGES_QUESTION,
    IN_TRAINING,
    NOT_PROVED,
    PARTS_WORDS,
    PROVED_EVASION,
    PROVED_IMAGES,
    PROVED_PARTS,
    PROVED_RADII,
    QUESTION,
    SHARE_NOISE_WORDS,
    SHARE_WORDS,
    SHARES_ATTEMPTS,
    SHARES_FROM_ELSEWHERE,
    SHARES_FROM_SEED,
    UNPROVED_RADII,
    WORDS,
)
from dpclean.report.html import Picture, picture, render
from dpclean.report.percent import share
from dpclean.report.plot import svg

SHOWN_CLASSES = 20  # of a longer class list the first ones
MULTIPLES = ("0", "0.25", "0.5", "0.75", "1", "1.5", "2", "3")  # of sigma: the distances shown for one model
CLASS_MULTIPLES = ("0", "0.5", "1")  # the same in the table by class
CLASS_IMAGES = (0, 1, 10)  # and where runs took a share of the images: how many of them were changed
NEAR = 128  # pixels: images smaller than this are enlarged by a whole factor to about this, larger ones made smaller

Certificate = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A test image to show: the index of its point and its pixels, uint8 [H,W,C], C 1 or 3."""

    index: int
    pixels: NDArray[np.uint8]


def report_html(certificate: Certificate, examples: Sequence[Example]) -> str:
    """The whole page as HTML text; examples are grouped by what became of them, in the order given."""
    parameters, exploratory = parameters_in(certificate), _exploratory(certificate)
    return render(
        "certificate.html",
        title=_title(certificate),
        exploratory=exploratory,
        warnings=list(_warnings(parameters)),
        headline=headline(certificate),
        question=_question(parameters),
        trains=not is_at_test_time(parameters),
        how=_how(certificate, parameters),
        radii=_radii(parameters),
        cards_shown=_cards(certificate, parameters),
        certified=list(_certified(certificate, parameters)),
        not_covered=certificate["not_covered"],
        curve=Markup(svg(curve(certificate))) if _has_radii(certificate) else None,
        beside=_beside(certificate),
        whole=_by_images(certificate),
        accuracy=_by_radius(certificate),
        attacks=_attacks(certificate),
        one_model=_one_model(certificate["accuracy_certificate"]),
        one_model_absent=certificate["accuracy_certificate_absent"],
        examples=_examples(certificate, examples),
        assumptions=certificate["assumptions"],
        settings=_settings(certificate),
        classes=_classes(parameters.classes),
        words=_words(parameters),
        votes_are=_votes_are(parameters),
        recomputed=_recomputed(certificate),
    )


def _question(parameters: CertificateParameters) -> str:
    if is_at_test_time(parameters):
        return EVASION_QUESTION
    return IMAGES_QUESTION if counts_images(parameters) else QUESTION


def _radii(parameters: CertificateParameters) -> str:
    if parts_of(parameters) is not None:
        return PROVED_PARTS
    if parameters.exploratory:
        return UNPROVED_RADII
    if is_at_test_time(parameters):
        return PROVED_EVASION
    return PROVED_RADII if share_of(parameters) is None else PROVED_IMAGES


def _words(parameters: CertificateParameters) -> list[tuple[str, str]]:
    if parts_of(parameters) is not None:
        return [*PARTS_WORDS, (parameters.bound, f"the election that is used here: {ELECTIONS[parameters.bound]}")]
    bound = find_bound(parameters.bound)
    words: tuple[tuple[str, str], ...] = WORDS
    if is_at_test_time(parameters):
        words = EVASION_WORDS
    elif share_of(parameters) is not None:
        words = SHARE_WORDS if Decimal(parameters.sigma) == 0 else (*SHARE_WORDS, *SHARE_NOISE_WORDS)
    return [*words, (bound.name, f"the bound that is used here: {bound.sentence}")]


def _votes_are(parameters: CertificateParameters) -> str:
    """What the votes are said to be."""
    if parts_of(parameters) is not None:
        return "that one model was trained on each part, on the images that belong to it and on nothing else"
    if share_of(parameters) is not None:
        noise = " with fresh noise of this strength" if Decimal(parameters.sigma) else ""
        return (
            f"that so many models were trained, each on a fresh random share of the images{noise}, under a key that was"
            " secret and drawn after the images were fixed"
        )
    if is_at_test_time(parameters):
        return (
            "that one and the same model gave them, each on fresh noise of this strength, under a key that was secret"
            " and drawn after model and test images were fixed"
        )
    return (
        "that so many models were trained, each on fresh noise of\nthis strength, under a key that was secret and drawn"
        " after the images were fixed"
    )


def _recomputed(certificate: Certificate) -> str:
    """What verify makes again, for a reader."""
    if not counts_images(parameters_in(certificate)):
        return "every class, radius, budget and bound"
    radii = ", radius, budget" if _has_radii(certificate) else ""
    return f"every class, number of images{radii} and bound"


def _exploratory(certificate: Certificate) -> bool:
    return bool(certificate["kind"] == "exploratory")


def _held(certificate: Certificate) -> str:
    """What the page calls a test image with a radius: where nothing is proved nothing is certified."""
    return "With a radius" if _exploratory(certificate) else "Certified"


# --- the opening: what was done, what it shows, what it does not ---


def _title(certificate: Certificate) -> str:
    summary = certificate["summary"]
    if _exploratory(certificate):
        return f"Exploratory report on {summary['points']:,} test images: nothing is proved"
    count = f"{summary['certified']:,} of {summary['points']:,}"
    if counts_images(parameters_in(certificate)):
        return f"{count} test images certified against whole images that were put in, changed or taken away"
    what = "each test image itself" if is_at_test_time(parameters_in(certificate)) else "the training images"
    return f"{count} test images certified against small changes of {what}"


def _warnings(parameters: CertificateParameters) -> Iterator[tuple[str, str]]:
    """What stands above all else: (the words that must not be missed, the rest)."""
    if parameters.exploratory:
        yield "Exploratory. ", NOT_PROVED
    if isinstance(parameters, ForeignParameters):
        told = EVASION_FROM_ELSEWHERE if is_at_test_time(parameters) else FROM_ELSEWHERE
        yield "Votes from elsewhere. ", told if share_of(parameters) is None else SHARES_FROM_ELSEWHERE
    if parameters.seed is not None and parts_of(parameters) is None:
        told = EVASION_FROM_SEED if is_at_test_time(parameters) else FROM_SEED
        yield f"Seed {parameters.seed}. ", told if share_of(parameters) is None else SHARES_FROM_SEED
    if (attempt := attempt_of(parameters)) > 1 and parts_of(parameters) is None:
        yield f"Attempt {attempt}. ", ATTEMPTS if share_of(parameters) is None else SHARES_ATTEMPTS
    if shared := in_training(parameters):
        yield f"{shared:,} ", IN_TRAINING


def _has_radii(certificate: Certificate) -> bool:
    return Decimal(certificate["summary"]["ceiling"]) > 0 or not counts_images(parameters_in(certificate))


def _by_images(certificate: Certificate) -> dict[str, Any] | None:
    """Certified accuracy against whole images, with its headline; None where all images are in every run."""
    if not counts_images(parameters_in(certificate)):
        return None
    by_kind: Mapping[str, Any] = certificate.get("accuracy_by_images", {})
    exploratory = _exploratory(certificate)
    shown = 3 - exploratory  # a bound of what was chosen afterwards bounds nothing
    return {
        "curve": Markup(svg(images_curve(certificate))),
        "sizes": _sizes(certificate),
        "head": ("images", "accuracy" if exploratory else "certified accuracy", "lower bound")[:shown],
        "tables": [
            (
                f"{IMAGES[kind][1]} by the attacker",
                [(f"{at['images']:,}", share(at["certified_accuracy"]), share(at["lower"]))[:shown] for at in rows],
            )
            for kind, rows in by_kind.items()
        ],
    }


def _sizes(certificate: Certificate) -> dict[str, Any]:
    """What holds against as many images as attackers touch in what has been published."""
    kinds = kinds_of_images(parameters_in(certificate))
    return {
        "head": ("images", *(f"if so many were {DONE[kind][1]}" for kind in kinds)),
        "rows": [
            (what, *(share(text(holding(certificate, kind, images), 6)) for kind in kinds))
            for images, what in published(certificate)
        ],
    }


def _beside(certificate: Certificate) -> dict[str, Any] | None:
    """Certified accuracy by radius beside some changed images; None where none were asked for, or without labels."""
    tables: Sequence[Mapping[str, Any]] = certificate.get("accuracy_with_images", ())
    if not tables:
        return None
    columns = [certificate["accuracy"]["at"], *(table["at"] for table in tables)]
    rows = [
        (first["radius"], *(share(at["certified_accuracy"]) for at in (first, *others)))
        for first, *others in zip(*columns, strict=True)
    ]
    shown = 1 + sum(any(at["certified"] for at in row) for row in zip(*columns, strict=True))
    return {
        "head": ("radius", "no image changed", *(f"{table['images']:,} changed" for table in tables)),
        "rows": rows[:shown],
    }


def _how(certificate: Certificate, parameters: CertificateParameters) -> str:
    if is_at_test_time(parameters):
        return _how_at_test_time(parameters)
    failed = certificate["summary"]["failed_runs"]
    noised = (
        " The test images were noised and denoised in the same way."
        if find_threat(parameters.threat).noises_points
        else ""
    )
    taken, parts = share_of(parameters), parts_of(parameters)
    what = "failed" if not counts_images(parameters) else "took too little to train on, or failed"
    without = f" Of the runs {failed:,} {what}; they are counted, as votes for nobody." if failed else ""
    noise = ""
    if Decimal(parameters.sigma):
        noise = f", with fresh random noise (sigma {parameters.sigma}) added and taken away again"
    if parts is not None:
        return (
            f"The training images were divided into {parts.parts:,} parts; which of them an image is in is decided by"
            f" {PART_WORDS[parts.by]} alone. A model was trained on each part{noise}. Each of the {parts.parts:,}"
            f" models cast one vote for each test image, {parameters.points:,} in all.{without} "
        )
    if taken is not None:
        took = "" if (counted := members(certificate)) is None else f": {counted}"
        return (
            f"A model was trained {parameters.runs:,} times, each time on a fresh random share of the same training"
            f" images (each is in with probability {taken / WORD:.4g}{took}){noise}.{noised} Each model cast one vote"
            f" for each test image, {parameters.points:,} in all.{without} "
        )
    return (
        f"A model was trained {parameters.runs:,} times, each time on a new copy of the same training images, to which"
        f" fresh random noise (sigma {parameters.sigma}) had been added and then taken away again.{noised} Each model"
        f" cast one vote for each test image, {parameters.points:,} in all.{without} "
    )


def _how_at_test_time(parameters: CertificateParameters) -> str:
    local = parameters.local_smoothing if isinstance(parameters, EvasionParameters) else None
    mean = "" if local is None else f", by the mean of its answers to {local.draws:,} copies with a little noise each"
    return (
        f"{NOT_POISON} Each test image was taken {parameters.runs:,} times, each time with fresh random noise (sigma"
        f" {parameters.sigma}) added and taken away again, and one model, which stayed the same, voted for a"
        f" class{mean}. "
    )


def _cards(certificate: Certificate, parameters: CertificateParameters) -> list[tuple[str, str, str]]:
    """A few figures: (what, how much, what that means)."""
    summary = certificate["summary"]
    wrong = sum(p["class"] >= 0 and p["label"] not in (None, p["class"]) for p in certificate["points"])
    of_points = f"of {summary['points']:,} test images" + (f", {wrong:,} of them for a wrong class" if wrong else "")
    cards = [
        (_held(certificate), f"{summary['certified']:,}", of_points),
        ("Abstained", f"{summary['abstained']:,}", "nothing is said about these"),
    ]
    if _has_radii(certificate):
        cards += [
            ("Largest radius", summary["largest_radius"], f"median {summary['median_radius']}"),
            ("Ceiling", summary["ceiling"], f"no radius is larger, even if all {parameters.runs:,} runs agree"),
        ]
    if kinds := kinds_of_images(parameters):
        cards.insert(1, _median_card(certificate, kinds))
    if not _exploratory(certificate) and parts_of(parameters) is None:
        note = "for all statements together" if parameters.family == "all" else "for each statement"
        cards.append(("Risk of error", parameters.alpha, note))
    return cards


def _median_card(certificate: Certificate, kinds: Sequence[str]) -> tuple[str, str, str]:
    """How many images half of what is certified withstands at least."""
    held = [point for point in certificate["points"] if point["class"] >= 0]

    def median(kind: str) -> int:
        return sorted((point[kind] for point in held), reverse=True)[(len(held) - 1) // 2] if held else 0

    first, *others = (f"{median(kind):,} {DONE[kind][1]}" for kind in kinds)
    return "Half withstand", first, "or " + ", or ".join(others)


def _certified(certificate: Certificate, parameters: CertificateParameters) -> Iterator[str]:
    if not certificate["summary"]["certified"]:
        yield "Nothing. For none of the test images do enough votes agree."
        return
    if parts_of(parameters) is not None:
        yield (
            "For every certified test image: the class that these models elect is what it would be without the attack,"
            " if the attacker put in no more images than the number beside it, or changed or relabelled no more, or"
            " took no more away. It does not matter which images, and what they show. This is true without exception:"
            " it follows from counting alone."
        )
        return
    if share_of(parameters) is not None:
        yield (
            "For every certified test image: the class that models trained in this way, on fresh random shares with the"
            " same classes and recipe, vote for most often is what it would be without the attack, if the attacker put"
            " in no more images than the number beside it, or changed or relabelled no more, or took no more away. It"
            " does not matter which images, and what they show."
        )
        if not _has_radii(certificate):
            yield _risk(parameters)
            return
    largest = max(certificate["points"], key=lambda point: int(point["budget"]))
    if is_at_test_time(parameters):
        yield from _certified_at_test_time(parameters, largest)
        return
    noised = find_threat(parameters.threat).noises_points
    what = "the training images and this test image, taken together," if noised else "the training images"
    where = "the whole training set and this test image" if noised else "the whole training set"
    size = f" These images have {parameters.values:,} pixel values in all." if parameters.values else ""
    reach = f"{largest['certified_radius']}, a budget of {largest['budget']:,}"
    yield (
        "For every certified test image: the class that models trained in this way vote for most often stays the same"
        f" if {what} are changed by less than the radius of that test image, by whatever attack. And the other way"
        " round: if the images used here are the changed ones, the unchanged ones would have led to the same class."
    )
    yield (
        f"A radius is a distance: square the change of every pixel value of {where}, add all squares up, and take the"
        " root; pixels go from 0 to 1. The budget says the same in whole grey levels from 0 to 255, before the root."
        f" Here the largest radius is {reach}: for example {largest['budget']:,} pixel values changed by one level"
        f" each, or {largest['budget'] // 4:,} by two.{size}"
    )
    yield _risk(parameters)


def _certified_at_test_time(parameters: CertificateParameters, largest: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "For every certified test image: the class that the model gives most often under such noise stays the same if"
        " the image is changed by less than its radius, by whatever attack. And the other way round: if the image used"
        " here is the changed one, the unchanged one would have got the same class."
    )
    yield (
        "A radius is a distance: square the change of every pixel value of the image, add all squares up, and take the"
        " root; pixels go from 0 to 1. The budget says the same in whole grey levels from 0 to 255, before the root."
        f" Here the largest radius is {largest['certified_radius']}, a budget of"
        f" {largest['budget']:,}{_example_in(parameters.values, int(largest['budget']))}"
    )
    yield _risk(parameters)


def _example_in(values: int | None, budget: int) -> str:
    """What a budget covers in one image of so many values, with the end of its sentence."""
    if not values:
        return "."
    size, levels = f" An image has {values:,} pixel values.", math.isqrt(budget // values)
    if levels:
        return f": for example every pixel value changed by {levels:,} level{'s' * (levels > 1)}.{size}"
    return f": for example {budget:,} pixel values changed by one level each.{size}"


def _risk(parameters: CertificateParameters) -> str:
    if is_at_test_time(parameters):
        which = "any of these" if parameters.family == "all" else "a statement"
        return f"The probability, over the noise, that {which} is false is at most {parameters.alpha}."
    if parameters.family == "all":
        return f"The probability, over noise and training, that any of these is false is at most {parameters.alpha}."
    expected = (Decimal(parameters.alpha) * parameters.points).normalize()
    return (
        f"Each statement is false with a probability of at most {parameters.alpha}, over noise and training. On average"
        f" at most {expected:,f} of the {parameters.points:,} test images have a false one; as all rest on the same"
        " runs, false ones may come together."
    )


# --- how much is certified at which radius ---


def _by_radius(certificate: Certificate) -> dict[str, Any] | None:
    """The table of certified accuracy; None without labels."""
    accuracy, exploratory = certificate["accuracy"], _exploratory(certificate)
    if accuracy is None:
        return None
    head = ("radius", "budget", "right", "accuracy" if exploratory else "certified accuracy", "lower bound")
    rows = [
        (at["radius"], f"{at['budget']:,}", f"{at['certified']:,}", share(at["certified_accuracy"]), share(at["lower"]))
        for at in accuracy["at"]
    ]
    rows = rows[: 1 + sum(at["certified"] > 0 for at in accuracy["at"])]  # to the first 0: what follows is like it
    shown = len(head) - exploratory  # a bound of what was chosen afterwards bounds nothing
    return {
        "labelled": f"{accuracy['labelled']:,}",
        "head": head[:shown],
        "rows": [row[:shown] for row in rows],
        "confidence": share(accuracy["confidence"]),
        "j": f"{accuracy['j']:,}",
    }


def _attacks(certificate: Certificate) -> dict[str, Any]:
    sizes, largest = certificate["attack_sizes"], certificate["summary"]["largest_radius"]
    covered = [size["covered_by_largest"] for size in sizes]
    below = "below" if _exploratory(certificate) else "covered by"
    own = EVASION_ATTACKS if is_at_test_time(parameters_in(certificate)) else None
    return {
        "own": own,
        "covered": all(covered),
        "head": ("change", "distance", f"{below} {largest}, the largest radius here"),
        "rows": [
            (size["change"], size["distance"], "yes" if holds else "no")
            for size, holds in zip(sizes, covered, strict=True)
        ],
    }


# --- the accuracy of one model ---


def _one_model(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None

    whole = found.get("images")
    shown = [f"at {multiple} sigma" for multiple in CLASS_MULTIPLES]
    if whole is not None:
        shown = [f"{images} changed" for images in CLASS_IMAGES]

    def rows(entries: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, ...]]:
        def cells(entry: Mapping[str, Any]) -> list[str]:
            if whole is None:
                return [row[key] for row in _at(entry["curve"], CLASS_MULTIPLES)]
            changed = {row["images"]: row["changed"] for row in entry["images"]}
            return [changed.get(images, "1" if key == "share" else "0") for images in CLASS_IMAGES]

        return [
            (entry["name"], f"{entry['points']:,}", *(share(cell, up=key == "share") for cell in cells(entry)))
            for entry in entries
        ]

    curve = _at(found["curve"], MULTIPLES) if whole is None else found["curve"][::10]
    return {
        "rows": [(at["distance"], at["distance_over_sigma"], share(at["accuracy"])) for at in curve],
        "images": [
            (f"{at['images']:,}", *(share(at[kind]) for kind in ("inserted", "changed", "missing")))
            for at in whole or ()
        ],
        "mean": share(found["mean"]),
        "alpha": found["alpha"],
        "classes": f"{len(found['per_class']):,}",
        "columns": shown,
        "per_class": rows(found["per_class"], "accuracy"),
        "attack": rows(found["attack"], "share"),
    }


def _at(curve: Sequence[Mapping[str, Any]], multiples: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a curve at these multiples of sigma."""
    wanted = {Decimal(multiple) for multiple in multiples}
    return [row for row in curve if Decimal(row["distance_over_sigma"]) in wanted]


# --- examples ---


def _examples(certificate: Certificate, examples: Sequence[Example]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(what became of them, figures) of each group that has any."""
    points = {point["index"]: point for point in certificate["points"]}
    held, classes = _held(certificate), certificate["terms"]["classes"]
    groups: dict[str, list[dict[str, Any]]] = {held: [], f"{held}, for a wrong class": [], "Abstained": []}
    right, wrong, abstained = groups.values()
    for example in examples:
        point = points[example.index]
        group = abstained if point["class"] < 0 else right if point["label"] in (None, point["class"]) else wrong
        group.append(_figure(example.pixels, point, classes))
    return [(title, figures) for title, figures in groups.items() if figures]


def _figure(pixels: NDArray[np.uint8], point: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    votes = f"votes {point['k_a']:,}, next class {point['k_b']:,}"
    reach = [f"radius {point['certified_radius']}", f"budget {point['budget']:,}"] if point["budget"] else []
    reach += [f"{label}: {point[kind]:,}" for kind, (_, label) in IMAGES.items() if kind in point]
    return {
        "picture": _picture(pixels),
        "answer": None if point["class"] < 0 else classes[point["class"]],
        "label": None if point["label"] is None else classes[point["label"]],
        "lines": (votes,) if point["class"] < 0 else (*reach, votes),
        "name": point["name"],
    }


def _picture(pixels: NDArray[np.uint8]) -> Picture:
    """Small images are enlarged without mixing pixels, large ones made smaller."""
    from PIL import Image

    factor = max(1, round(NEAR / max(pixels.shape[:2])))
    shown = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    image = Image.fromarray(np.repeat(shown, 3 // shown.shape[2], axis=2))
    image.thumbnail((2 * NEAR, 2 * NEAR))
    return picture(image)


# --- what was set ---


def _settings(certificate: Certificate) -> list[tuple[str, str]]:
    terms = {**certificate["terms"], "job": certificate["job"], "votes_sha256": certificate["votes_sha256"]}
    return [(key, _fact(value)) for key, value in terms.items() if key != "classes"]


def _classes(classes: Sequence[str]) -> dict[str, Any]:
    more = f"and {len(classes) - SHOWN_CLASSES:,} more" if len(classes) > SHOWN_CLASSES else ""
    return {"count": f"{len(classes):,}", "shown": classes[:SHOWN_CLASSES], "more": more}


def _fact(value: object) -> str:
    """A value of the terms as text; what is null is not known or does not apply."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
