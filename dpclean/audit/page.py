"""The page of an audit: its sentence, its table, a few trials in pictures, and what an audit cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpclean.audit.attacks.attack import Attack
from dpclean.audit.defences.defence import Defence
from dpclean.audit.results import Report, Row
from dpclean.audit.victims.victim import Victim
from dpclean.jobs.durable import write_durably
from dpclean.report.html import Picture, picture, render
from dpclean.report.percent import share

PICTURED = 3  # trials
SHOWN = 4  # poisons of each
GAIN = 10  # a change of one grey level is drawn as this many
EDGE, GAP, GREY = 80, 4, 128  # pixels: about the edge of an image as it is shown, between two; no change

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A trial in pictures [H,W,C]: asked is the target, or an image with the trigger on it; behind has the poisons as
    the victim gets them, for each defence that changes them.
    """

    caption: str
    asked: Pixels
    bases: list[Pixels]
    poisons: list[Pixels]
    behind: list[list[Pixels]]


LIMITS = (
    "It tries the attacks that are listed, with the budget that is stated. Another attack, or the same one with more"
    " images, a larger change or more patience, may succeed where these did not; no count of failures is a proof.",
    "An attacker who does not know the defence says little about it. What counts is the one who does (--adaptive), and"
    " a certificate (dpclean certify), which holds against both up to its radius.",
    "The trials share one draw of noise for the images that are not poisoned, so the intervals are somewhat too narrow"
    " for the rows with noise.",
    "Whether the data hold poisons already is not looked for: an audit plants its own.",
)


def write_page(
    path: Path,
    report: Report,
    attack: Attack,
    victim: Victim,
    defences: Sequence[Defence],
    shown: Sequence[Shown],
) -> None:
    """defences: all, the first of them none. Raises SetupError."""
    columns = [
        ("With the trigger", "one of the images that it is tried on")
        if attack.has_trigger
        else ("Target", "what the attack is about"),
        ("Before", "images that the attacker changes"),
        ("Poisons", "what he makes of them"),
        (f"Difference x{GAIN}", "mid-grey is no change"),
        *((defence.label, "the poisons as the victim gets them") for defence in defences if defence.changes),
    ]
    proved = _proved(report)
    write_attacks(
        path,
        "audit.html",
        report,
        [(trial.caption, _tiles(trial)) for trial in shown],
        _facts(report, attack),
        title="Audit: what real attacks do to these data",
        tried=TRIGGER_TRIED if attack.has_trigger else TARGET_TRIED,
        head=HEAD + (PROVED if proved else ()),
        table_rows=[_cells(row, bool(proved)) for row in report.rows],
        proved=proved,
        making_head=MAKING,
        making_rows=_making(report.rows),
        about=[
            *(f"{learner.name}: {learner.about}" for learner in victim.learners),
            *dict.fromkeys(f"{defence.name}: {defence.about}" for defence in defences),
        ],
        limits=(*LIMITS[:2], victim.limit, *LIMITS[2:]),
        columns=columns,
    )


def write_attacks(
    path: Path,
    template: str,
    report: Any,
    shown: Sequence[tuple[str, Sequence[Picture]]],
    facts: Mapping[str, str],
    **values: Any,
) -> None:
    """The page of either kind of audit. shown: captions, each with a picture a column. Raises SetupError."""
    page = render(
        template,
        headline=report.headline,
        remarks=report.remarks,
        rows=[{"name": caption, "caption": "", "tiles": tiles, "crops": []} for caption, tiles in shown],
        run_facts={**facts, "Seed": str(report.parameters["seed"]), "Made by": report.tool},
        **values,
    )
    write_durably(path, page.encode())


TARGET_TRIED = (
    "so that a model trained on it takes one chosen test image, the target, for another class. Counted are the targets"
    " for which that worked. Beside each count stands a control: how often the same victim makes that very mistake"
    " without any poison."
)
TRIGGER_TRIED = (
    "so that a model trained on it takes images of other classes for one class wherever the attacker puts his trigger"
    " on them. Counted are the test images with the trigger on them for which that worked, over all trials; those of a"
    " trial share a victim, so the intervals speak of these victims. Beside each count stands a control: for how many"
    " of them the same victim does that without any poison."
)
HEAD = (
    "knows",
    "defence",
    "learned by",
    "succeeded",
    "95 %",
    "control",
    "skipped",
    "accuracy / control",
)
PROVED = ("proved, reach",)
MAKING = ("attacker knows", "distance to the target", "crafting, s")


def _cells(row: Row, proofs: bool) -> list[str]:
    cells = [
        row.attacker,
        row.defence,
        row.head,
        f"{row.succeeded} of {row.attacked}",
        f"{math.floor(100 * row.low)} to {math.ceil(100 * row.high)} %",
        f"{row.control} of {row.trials}",
        str(row.skipped),
        f"{share(row.accuracy).removesuffix(' %')} / {share(row.control_accuracy)}",
    ]
    if not proofs:
        return cells
    return [*cells, "-" if row.covered is None else f"{row.covered} of {row.attacked}, {row.reach}"]


def _proved(report: Report) -> str:
    """What the certificates of votes say beside the attack, where there are any; else nothing."""
    if all(row.covered is None for row in report.rows):
        return ""
    sizes = sorted({len(outcome.trial.bases) for outcome in report.trials})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (
        f"The attack changes {size} images. Behind votes each answer of the control has a certificate: so many images,"
        " changed at will, leave it what it is. Where that number is at least the attack's, no attack of this size can"
        " succeed, whatever it knows: proved for so many targets. The reach is the median of these numbers."
    )


def _making(rows: Sequence[Row]) -> list[list[str]]:
    """How each attacker made his poisons, one row an attacker."""
    return [
        [row.attacker, _distances(row), f"{row.crafting_seconds:.1f}"]
        for row in {row.knows: row for row in rows}.values()
    ]


def _distances(row: Row) -> str:
    if row.distance_before is None or row.distance_after is None:
        return "-"
    return f"{row.distance_before:.2f} to {row.distance_after:.2f}"


def _facts(report: Report, attack: Attack) -> dict[str, str]:
    asked = report.parameters
    bound = f"{asked['eps']} of 255 grey levels"
    labels = "with the label of the attacker's class" if attack.relabels else "labels as they were"
    return {
        "Attack": f"{report.attack} ({report.paper})",
        "Largest change": f"{bound}; beyond it {attack.beyond}" if attack.beyond else bound,
        "Poisons": f"{len(report.trials[0].trial.bases)} of {report.images} images, {labels}",
        "Trials": str(len(report.trials)),
        "Victim": report.victim,
        "Test images": str(report.test_images),
        "RAW's pixel digest": asked["raw"],
    }


def _tiles(trial: Shown) -> list[Picture]:
    differences = [difference(poison, base) for poison, base in zip(trial.poisons, trial.bases, strict=True)]
    rows = ([trial.asked], trial.bases, trial.poisons, differences, *trial.behind)
    return [montage(images) for images in rows]


def difference(changed: Pixels, image: Pixels) -> Pixels:
    """Between two images [H,W,C], GAIN times as large."""
    return (GREY + GAIN * (changed.astype(np.int16) - image)).clip(0, 255).astype(np.uint8)


def montage(images: Sequence[Pixels]) -> Picture:
    """Images in two columns, each enlarged or thinned out by a whole factor to about EDGE; no pixel is mixed."""
    small = [_near_edge(image) for image in images]
    cell = max(max(image.shape[:2]) for image in small) + GAP
    width = min(2, len(small))
    sheet = Image.new("RGB", (width * cell - GAP, -(-len(small) // width) * cell - GAP), (GREY,) * 3)
    for place, image in enumerate(small):
        sheet.paste(Image.fromarray(image), (place % width * cell, place // width * cell))
    return picture(sheet)


def _near_edge(image: Pixels) -> Pixels:
    longest = max(image.shape[:2])
    step, factor = -(-longest // (2 * EDGE)), max(1, EDGE // longest)
    thinned = image[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)
    return np.repeat(thinned, 3 // thinned.shape[2], axis=2)
