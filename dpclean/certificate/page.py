"""The page that explains a certificate to somebody who has never read about one.

It shows what certificate.json says and proves nothing of its own; shares are rounded in the direction that claims less.
Votes whose terms were not fixed in advance make an exploratory page: the same figures, said to be unproved, and not
called a certificate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.curve import curve
from dpclean.certificate.files import parameters_in
from dpclean.certificate.glossary import (
    ATTEMPTS,
    FROM_ELSEWHERE,
    FROM_SEED,
    IN_TRAINING,
    NOT_PROVED,
    PROVED_RADII,
    QUESTION,
    UNPROVED_RADII,
    WORDS,
)
from dpclean.certificate.parameters import CertificateParameters, ForeignParameters, attempt_of, in_training
from dpclean.certificate.threats import find_threat
from dpclean.report.html import (
    Html,
    bullets,
    definitions,
    document,
    folded,
    heading,
    joined,
    name,
    paragraph,
    picture,
    pictures,
    share,
    small,
    strong,
    table,
)
from dpclean.report.plot import svg

SHOWN_CLASSES = 20  # of a longer class list the first ones
MULTIPLES = ("0", "0.25", "0.5", "0.75", "1", "1.5", "2", "3")  # of sigma: the distances shown for one model
CLASS_MULTIPLES = ("0", "0.5", "1")  # the same in the table by class

Certificate = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A test image to show: the index of its point and its pixels, uint8 [H,W,C], C 1 or 3."""

    index: int
    pixels: NDArray[np.uint8]


def report_html(certificate: Certificate, examples: Sequence[Example]) -> str:
    """The whole page as HTML text; examples are grouped by what became of them, in the order given."""
    return document(
        _title(certificate),
        *_opening(certificate),
        *_by_radius(certificate),
        *_attacks(certificate),
        *_one_model(certificate),
        *_examples(certificate, examples),
        *_trust(certificate),
        *_settings(certificate),
    )


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
    return f"{count} test images certified against small changes of the training images"


def _opening(certificate: Certificate) -> Iterator[Html]:
    parameters = parameters_in(certificate)
    if _exploratory(certificate):
        yield paragraph(strong("Exploratory. "), NOT_PROVED, kind="warning")
    if isinstance(parameters, ForeignParameters):
        yield paragraph(strong("Votes from elsewhere. "), FROM_ELSEWHERE, kind="warning")
    if parameters.seed is not None:
        yield paragraph(strong(f"Seed {parameters.seed}. "), FROM_SEED, kind="warning")
    if (attempt := attempt_of(parameters)) > 1:
        yield paragraph(strong(f"Attempt {attempt}. "), ATTEMPTS, kind="warning")
    if shared := in_training(parameters):
        yield paragraph(strong(f"{shared:,} "), IN_TRAINING, kind="warning")
    yield paragraph(QUESTION)
    yield paragraph(
        _how(parameters, certificate["summary"]["failed_runs"]),
        UNPROVED_RADII if _exploratory(certificate) else PROVED_RADII,
    )
    yield _cards(certificate)
    if not _exploratory(certificate):
        yield heading("What is certified")
        yield bullets(_certified(certificate))
    yield heading("What is not covered")
    yield bullets(certificate["not_covered"])


def _how(parameters: CertificateParameters, failed: int) -> str:
    noised = (
        " The test images were noised and denoised in the same way."
        if find_threat(parameters.threat).noises_points
        else ""
    )
    without = f" Of the runs {failed:,} failed; they are counted, as votes for nobody." if failed else ""
    return (
        f"A model was trained {parameters.runs:,} times, each time on a new copy of the same training images, to which"
        f" fresh random noise (sigma {parameters.sigma}) had been added and then taken away again.{noised} Each model"
        f" cast one vote for each test image, {parameters.points:,} in all.{without} "
    )


def _cards(certificate: Certificate) -> Html:
    summary, parameters = certificate["summary"], parameters_in(certificate)
    wrong = sum(p["class"] >= 0 and p["label"] not in (None, p["class"]) for p in certificate["points"])
    of_points = f"of {summary['points']:,} test images" + (f", {wrong:,} of them for a wrong class" if wrong else "")
    cards = [
        (_held(certificate), f"{summary['certified']:,}", of_points),
        ("Abstained", f"{summary['abstained']:,}", "nothing is said about these"),
        ("Largest radius", summary["largest_radius"], f"median {summary['median_radius']}"),
        ("Ceiling", summary["ceiling"], f"no radius is larger, even if all {parameters.runs:,} runs agree"),
    ]
    if not _exploratory(certificate):
        note = "for all statements together" if parameters.family == "all" else "for each statement"
        cards.append(("Risk of error", parameters.alpha, note))
    return definitions(((term, joined(value, small(note))) for term, value, note in cards), "cards")


def _certified(certificate: Certificate) -> Iterator[str]:
    summary, parameters = certificate["summary"], parameters_in(certificate)
    if not summary["certified"]:
        yield "Nothing. For none of the test images do enough votes agree."
        return
    largest = max(certificate["points"], key=lambda point: int(point["budget"]))
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


def _risk(parameters: CertificateParameters) -> str:
    if parameters.family == "all":
        return f"The probability, over noise and training, that any of these is false is at most {parameters.alpha}."
    expected = (Decimal(parameters.alpha) * parameters.points).normalize()
    return (
        f"Each statement is false with a probability of at most {parameters.alpha}, over noise and training. On average"
        f" at most {expected:,f} of the {parameters.points:,} test images have a false one; as all rest on the same"
        " runs, false ones may come together."
    )


# --- how much is certified at which radius ---


def _by_radius(certificate: Certificate) -> Iterator[Html]:
    accuracy, exploratory = certificate["accuracy"], _exploratory(certificate)
    yield heading("By radius" if exploratory or accuracy is None else "Certified accuracy by radius")
    yield Html(svg(curve(certificate)))
    if accuracy is None:
        yield paragraph("The labels of the test images are not known, so nothing can be said about right and wrong.")
        return
    yield paragraph(
        "Counted are test images whose class is their label and whose radius is at least the one in the first column,"
        f" of all {accuracy['labelled']:,} with a label. Those that abstain count as not right."
    )
    head = ("radius", "budget", "right", "accuracy" if exploratory else "certified accuracy", "lower bound")
    rows = [
        (at["radius"], f"{at['budget']:,}", f"{at['certified']:,}", share(at["certified_accuracy"]), share(at["lower"]))
        for at in accuracy["at"]
    ]
    rows = rows[: 1 + sum(at["certified"] > 0 for at in accuracy["at"])]  # to the first 0: what follows is like it
    shown = len(head) - exploratory  # a bound of what was chosen afterwards bounds nothing
    yield table(head[:shown], [row[:shown] for row in rows])
    if not exploratory:
        yield paragraph(
            "The lower bound speaks of all images that the test images are a random sample of, and only where they are"
            f" one. Each bound holds with a confidence of {share(accuracy['confidence'])} and allows for"
            f" {accuracy['j']:,} false statements among those counted.",
            kind="faint",
        )


def _attacks(certificate: Certificate) -> Iterator[Html]:
    sizes = certificate["attack_sizes"]
    covered = all(size["covered_by_largest"] for size in sizes)
    yield heading("How large attacks are" if covered else "Published attacks are not covered")
    if not covered:
        yield paragraph(
            "The attacks that research papers describe change hundreds of images by many grey levels, which is far more"
            " than any radius on this page. ",
            strong("They are NOT covered by anything that is shown here."),
            " Whether noising and denoising stops them in practice is a question for experiments; there are none here.",
        )
    rows = [(size["change"], size["distance"], "yes" if size["covered_by_largest"] else strong("no")) for size in sizes]
    below = "below" if _exploratory(certificate) else "covered by"
    head = ("change", "distance", f"{below} {certificate['summary']['largest_radius']}, the largest radius here")
    yield table(head, rows, words=(0, 2))


# --- the accuracy of one model ---


def _one_model(certificate: Certificate) -> Iterator[Html]:
    if _exploratory(certificate):
        return
    found = certificate["accuracy_certificate"]
    yield heading("If you train one model")
    if found is None:
        yield paragraph(f"Nothing is said about a single model: {certificate['accuracy_certificate_absent']}.")
        return
    yield paragraph(
        "All of the above is about the most frequent answer of many models. Whoever trains one model in the same way,"
        " on training images that differ from these by the distance in the first column, can expect it to be right on"
        " at least this share of the test images, whatever the attack. To expect means on average over noise and"
        " training: a single model may do worse."
    )
    curve = _at(found["curve"], MULTIPLES)
    rows = [(at["distance"], at["distance_over_sigma"], share(at["accuracy"])) for at in curve]
    yield table(("distance", "in units of sigma", "expected accuracy, at least"), rows)
    yield paragraph(
        f"The models of this page were right on {share(found['mean'])} on average. The table is a statement of its own,"
        f" for all distances at once, false with a probability of at most {found['alpha']} on top of the risk above.",
        kind="faint",
    )
    yield folded(f"By class ({len(found['per_class']):,})", *_by_class(found))


def _at(curve: Sequence[Mapping[str, Any]], multiples: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a curve at these multiples of sigma."""
    wanted = {Decimal(multiple) for multiple in multiples}
    return [row for row in curve if Decimal(row["distance_over_sigma"]) in wanted]


def _by_class(found: Mapping[str, Any]) -> Iterator[Html]:
    at = [f"at {multiple} sigma" for multiple in CLASS_MULTIPLES]

    def rows(entries: Sequence[Mapping[str, Any]], key: str) -> list[tuple[object, ...]]:
        return [
            (
                name(entry["name"]),
                f"{entry['points']:,}",
                *(share(row[key], up=key == "share") for row in _at(entry["curve"], CLASS_MULTIPLES)),
            )
            for entry in entries
        ]

    yield paragraph(
        "Each row is a statement of its own, with a risk of its own. First, the expected accuracy of one model on the"
        " test images of one class, at least:"
    )
    yield table(("class", "test images", *at), rows(found["per_class"], "accuracy"), words=(0,))
    yield paragraph(
        "Second, the share of the test images of all other classes that one model gives to a class, at most:"
    )
    yield table(("class", "others", *at), rows(found["attack"], "share"), words=(0,))


# --- examples ---


def _examples(certificate: Certificate, examples: Sequence[Example]) -> Iterator[Html]:
    points = {point["index"]: point for point in certificate["points"]}
    held = _held(certificate)
    groups: dict[str, list[Html]] = {held: [], f"{held}, for a wrong class": [], "Abstained": []}
    right, wrong, abstained = groups.values()
    classes = certificate["terms"]["classes"]
    for example in examples:
        point = points[example.index]
        group = abstained if point["class"] < 0 else right if point["label"] in (None, point["class"]) else wrong
        group.append(picture(example.pixels, _caption(point, classes)))
    if examples:
        yield heading("Examples")
    for title, figures in groups.items():
        if figures:
            yield paragraph(strong(title))
            yield pictures(figures)


def _caption(point: Mapping[str, Any], classes: Sequence[str]) -> Html:
    label = "label not known" if point["label"] is None else joined("label ", name(classes[point["label"]]))
    votes = f"votes {point['k_a']:,}, next class {point['k_b']:,}"
    if point["class"] < 0:
        return joined(strong("abstains"), *map(small, (label, votes, name(point["name"]))))
    reach = (f"radius {point['certified_radius']}", f"budget {point['budget']:,}")
    answer = strong(joined("class ", name(classes[point["class"]])))
    return joined(answer, *map(small, (label, *reach, votes, name(point["name"]))))


# --- what it rests on, how to check it, what was set ---


def _trust(certificate: Certificate) -> Iterator[Html]:
    yield heading("What this rests on")
    yield bullets(certificate["assumptions"])
    yield heading("Check it yourself")
    yield paragraph("With the path of the folder that this page came in:")
    yield Html("<pre>dpclean verify FOLDER</pre>")
    yield paragraph(
        "It counts the votes in votes.safetensors again and recomputes every class, radius, budget and bound in whole"
        " numbers, needs neither images nor GPU, and names the first difference. It does not read this page and its"
        " pictures, which only show what the checked files say."
    )
    yield paragraph(
        "It cannot show that the votes are what they are said to be: that so many models were trained, each on fresh"
        " noise of this strength, under a key that was secret and drawn after the images were fixed. ",
        strong("That the votes come from honest runs is the word of whoever issued them."),
    )


def _settings(certificate: Certificate) -> Iterator[Html]:
    terms = {**certificate["terms"], "job": certificate["job"], "votes_sha256": certificate["votes_sha256"]}
    classes = terms["classes"]
    shown = bullets(map(name, classes[:SHOWN_CLASSES]))
    more = f"and {len(classes) - SHOWN_CLASSES:,} more" if len(classes) > SHOWN_CLASSES else ""
    facts = [(key, _fact(value)) for key, value in terms.items() if key != "classes"]
    yield folded("All settings", definitions([*facts, ("classes", joined(f"{len(classes):,}", shown, more))], "facts"))
    bound = find_bound(certificate["terms"]["bound"])
    rule = (bound.name, f"the bound that is used here: {bound.sentence}")
    yield folded("What the words mean", definitions([*WORDS, rule], "facts"))


def _fact(value: object) -> str:
    """A value of the terms as text; what is null is not known or does not apply."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
