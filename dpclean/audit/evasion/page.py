"""The page of attacks at test time: the sentence, the table, a few images, and what it cannot show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpclean.audit.evasion.pgd import ABOUT, LINF, NAME, Budget
from dpclean.audit.evasion.protected import Protected, Purified
from dpclean.audit.evasion.results import EvasionReport, Row, told_of
from dpclean.audit.page import GAIN, Pixels, difference, montage, write_attacks
from dpclean.report.html import Picture

PICTURED = 6  # images


@dataclass(frozen=True)
class Shown:
    """An attacked image [H,W,C], as it was, as each attacker has changed it, and what the model gets of that."""

    caption: str
    image: Pixels
    attacked: list[Pixels]
    purified: list[Pixels]


HEAD = ("knows", "purifier", "right, one draw", "attacked", "95 %", "right, by vote", "attacked", "95 %")
PROVED = ("proved", "refuted")
MAKING = (
    "attacker knows",
    "images changed",
    "draws for a gradient",
    "mean distance",
    "largest",
    "s an image",
    "processor s",
)
LIMITS = (
    "It tries one attack, with the steps and draws that are stated. One with more of them, or of another kind, may"
    " succeed where this did not: the shares under attack are upper bounds of what the model withstands, no proof.",
    "An attacker who does not know the purifier says little about it. What counts is the one who does, and a"
    " certificate (dpclean certify --threat evasion), which holds against all up to its radius.",
    "Images that everything an attacker shows them to gets wrong at once, by one draw and by vote, are left as they"
    " are: their difference is plain grey, and they count as wrong.",
    "The answers to an image and to what was made of it are by the same draws of noise, which no attacker has seen.",
    "It is about changed test images. Poisoned training data are another matter, which the other attacks of dpclean"
    " audit show.",
)


def write_page(
    path: Path, report: EvasionReport, budget: Budget, protected: Sequence[Protected], shown: Sequence[Shown]
) -> None:
    """Raises SetupError."""
    certified = any(row.covered is not None for row in report.rows)
    columns = [("Image", "as it was")]
    for one in protected:
        knows = "who knows the model" if not isinstance(one, Purified) else f"who knows {one.label}"
        columns += [("Attacked", f"by one {knows}"), (f"Difference x{GAIN}", "mid-grey is no change")]
        columns += [("Purified", "as the model gets it")] if isinstance(one, Purified) else []
    write_attacks(
        path,
        "evasion.html",
        report,
        [(one.caption, _tiles(one, protected)) for one in shown],
        {
            "Model": report.model,
            "Attacked": f"{len(report.names)} of {report.test_images} test images, by changes of {told_of(budget)}",
            "Steps": str(report.parameters["steps"]),
            "The model's digest": report.parameters["model"],
        },
        title="Audit: what attacks on test images do to this model",
        head=HEAD + (PROVED if certified else ()),
        table_rows=[_cells(row, certified) for row in report.rows],
        images=len(report.names),
        votes=max(one.votes for one in protected),
        proved=_proved(report, budget) if certified else "",
        making_head=MAKING,
        making_rows=[
            _making(row) for row in report.rows if row.knows == (None if row.defence == "none" else row.defence)
        ],
        about=[f"{NAME}: {ABOUT} ({report.paper})"],
        limits=LIMITS,
        columns=columns,
    )


def _cells(row: Row, certified: bool) -> list[str]:
    cells = [
        _knows(row),
        row.defence,
        str(row.clean[0]),
        str(row.attacked[0]),
        _interval(row.attacked),
    ]
    if row.clean_by_vote is None or row.attacked_by_vote is None:
        cells += ["-"] * 3
    else:
        cells += [
            str(row.clean_by_vote[0]),
            str(row.attacked_by_vote[0]),
            _interval(row.attacked_by_vote),
        ]
    if certified:
        cells += ["-", "-"] if row.covered is None else [str(row.covered), str(row.refuted)]
    return cells


def _knows(row: Row) -> str:
    return "the model alone" if row.knows is None else row.knows


def _interval(found: tuple[int, float, float]) -> str:
    return f"{math.floor(100 * found[1])} to {math.ceil(100 * found[2])} %"


def _making(row: Row) -> list[str]:
    return [
        _knows(row),
        f"{row.changed} of {row.images}",
        str(row.draws),
        f"{row.mean:.3f}",
        f"{row.largest:.3f}",
        f"{row.seconds:.1f}",
        f"{row.processor_seconds:.1f}",
    ]


def _proved(report: EvasionReport, budget: Budget) -> str:
    """What the certificates say beside the attack."""
    ball = (
        f"All that an attacker may do lies within a distance of {report.reach:.4f} of the image, where pixel values go"
        " from 0 to 1"
    )
    if budget.norm == LINF:
        ball += ": the changes of all pixel values together, each as large as it may be"
    return (
        f"{ball}. Proved is of how many images a certificate at test time says that the class which most draws of the"
        " noise give is the right one for every image within that distance. It speaks of the vote, not of one draw."
        " Refuted is of how many images the votes here say otherwise within their radius, which chance alone can make"
        " of as many as its alpha allows."
    )


def _tiles(one: Shown, protected: Sequence[Protected]) -> list[Picture]:
    tiles = [montage([one.image])]
    for seen, attacked, purified in zip(protected, one.attacked, one.purified, strict=True):
        tiles += [montage([attacked]), montage([difference(attacked, one.image)])]
        tiles += [montage([purified])] if isinstance(seen, Purified) else []
    return tiles
