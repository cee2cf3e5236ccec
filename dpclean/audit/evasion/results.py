"""What attacks at test time have shown: a row for each attacker and purifier, and the sentence that says it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.audit.evasion.pgd import LINF, NAME, Budget
from dpclean.audit.results import wilson

Right = NDArray[np.bool_]  # [N]: of which images the answer is right


class Row(msgspec.Struct, frozen=True):
    """One attacker against one purifier.

    knows: the purifier whose noise and denoiser he follows gradients through, None for one who knows the model alone.
    images: that he is given. changed: of these, all but those that he leaves as they are, since whatever they are shown
    to gets them wrong at once, by one draw and by vote. clean, attacked: for how many of all the model's answer at one
    draw of the noise is right, as they were and as he leaves them; by_vote: the same of the class that most of all
    draws give, None without noise. Each [count, low, high] with Wilson's 95 % interval of its share. covered: images
    for which a certificate claims the right class as far as the attack may go, refuted: those whose vote it has changed
    within their radius; both None without one. largest, mean: of the distances of the changed ones, on the [0, 1] pixel
    scale; seconds, processor_seconds: for one of them.
    """

    knows: str | None
    defence: str
    images: int
    changed: int
    clean: tuple[int, float, float]
    attacked: tuple[int, float, float]
    clean_by_vote: tuple[int, float, float] | None
    attacked_by_vote: tuple[int, float, float] | None
    covered: int | None
    refuted: int | None
    largest: float
    mean: float
    steps: int
    draws: int
    seconds: float
    processor_seconds: float


class Said(msgspec.Struct, frozen=True):
    """What the model says of each attacked image, in their order, as places in the classes; -1 where most runs failed.
    squares: of the change of each, summed, in grey levels.
    """

    clean: list[int]
    attacked: list[int]
    clean_by_vote: list[int]
    attacked_by_vote: list[int]
    squares: list[int]


def counted(right: Right) -> tuple[int, float, float]:
    """How many, and Wilson's interval of their share."""
    low, high = wilson(int(right.sum()), len(right))
    return int(right.sum()), round(low, 4), round(high, 4)


def votes_of(answers: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """The class [N] that most of all draws [V,N] give, the first of several; -1 where none gives one."""
    counts = np.stack([np.bincount(cast[cast >= 0], minlength=classes) for cast in answers.T])
    return np.where(counts.any(1), counts.argmax(1), -1)


def told_of(budget: Budget) -> str:
    """How far the attacks go, in words."""
    if budget.norm == LINF:
        return f"up to {budget.eps} of 255 grey levels of each pixel value"
    return (
        f"up to {budget.eps} grey levels in Euclidean length (about {budget.eps / 255:.3g}, pixel values from 0 to 1)"
    )


def headline(rows: Sequence[Row], budget: Budget) -> str:
    """Of each purifier the attacker who knows it, and by vote where there is noise."""
    parts = []
    for row in rows:
        if row.knows != (None if row.defence == "none" else row.defence):
            continue
        clean, attacked = row.clean_by_vote or row.clean, row.attacked_by_vote or row.attacked
        words = f"right on {clean[0]} of {row.images} test images, and on {attacked[0]} once they are attacked"
        if row.defence == "none":
            parts.append(f"by changes of {told_of(budget)}: without a purifier the model is {words}")
        else:
            proved = "" if row.covered is None else f" (proved for {row.covered})"
            parts.append(f"{row.defence} it is by vote {words} through it{proved}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


class EvasionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What audit.json says. names, labels: of the attacked images, labels as places in the classes. answers: one for
    each row. reach: on the [0, 1] pixel scale, the distance within which all that the attacker may do lies; parameters:
    everything that decides the result.
    """

    format: int = 1
    tool: str
    headline: str
    attack: str = NAME
    paper: str
    rows: list[Row]
    answers: list[Said]
    classes: list[str]
    names: list[str]
    labels: list[int]
    test_images: int
    model: str
    norm: str
    eps: int
    reach: float
    remarks: list[str]
    parameters: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True)
class EvasionDryRun:
    """What it would do. seconds: of all of it, from a few images and steps."""

    out: str
    attack: str
    classes: list[str]
    test_images: int
    targets: int
    defences: list[str]
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "audit", "dry_run": True, **asdict(self)}
