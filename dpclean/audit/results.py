"""What an audit has found: one row an attacker, defence and head; the sentence that says it first; what is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.audit.experiment import Outcome

CONFIDENCE = 0.95


class Row(msgspec.Struct, frozen=True):
    """One attacker against one defence and one way of training the victim, a head or a recipe.

    trials: all. skipped: those whose control gets the target wrong without any poison, so that an attack shows nothing.
    succeeded: of the others, those in which the victim takes the target for the poison class; low, high: Wilson's 95 %
    interval of their share. control: of all trials, those in which the victim does so without any poison. accuracies,
    seconds and distances are means over trials.
    """

    crafted_for: float | None
    defence: str
    head: str
    trials: int
    skipped: int
    succeeded: int
    low: float
    high: float
    control: int
    accuracy: float
    control_accuracy: float
    crafting_seconds: float
    distance_before: float
    distance_after: float

    @property
    def attacked(self) -> int:
        return self.trials - self.skipped


def rows_of(outcomes: Sequence[Outcome], labels: NDArray[np.int64]) -> list[Row]:
    """labels: of the test images."""
    first = outcomes[0]
    return [
        _row([outcome.verdicts[place] for outcome in outcomes], outcomes, labels)
        for place in range(len(first.verdicts))
    ]


def _row(verdicts: Sequence[Any], outcomes: Sequence[Outcome], labels: NDArray[np.int64]) -> Row:
    trials = [outcome.trial for outcome in outcomes]
    pairs = list(zip(verdicts, trials, strict=True))
    attacked = [(verdict, trial) for verdict, trial in pairs if verdict.control == labels[trial.target]]
    succeeded = sum(verdict.poisoned == trial.poison_class for verdict, trial in attacked)
    made_for = verdicts[0].crafted_for
    craftings = [one for outcome in outcomes for one in outcome.craftings if one.crafted_for == made_for]
    low, high = wilson(succeeded, len(attacked))
    return Row(
        crafted_for=made_for,
        defence=verdicts[0].defence,
        head=verdicts[0].head,
        trials=len(trials),
        skipped=len(trials) - len(attacked),
        succeeded=succeeded,
        low=round(low, 4),
        high=round(high, 4),
        control=sum(verdict.control == trial.poison_class for verdict, trial in pairs),
        accuracy=_mean([verdict.poisoned_accuracy for verdict in verdicts]),
        control_accuracy=_mean([verdict.control_accuracy for verdict in verdicts]),
        crafting_seconds=_mean([one.seconds for one in craftings]),
        distance_before=_mean([one.distance_before for one in craftings]),
        distance_after=_mean([one.distance_after for one in craftings]),
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def wilson(succeeded: int, attacked: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; without any trial everything is possible."""
    from scipy.stats import binomtest

    if not attacked:
        return 0.0, 1.0
    found = binomtest(succeeded, attacked).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def headline(rows: Sequence[Row]) -> str:
    """The one sentence that says it; of the heads it counts the one that serves the attacker best."""
    worst: dict[tuple[float | None, str], Row] = {}
    for row in rows:
        known = worst.get((row.crafted_for, row.defence))
        if known is None or _share(row) > _share(known):
            worst[row.crafted_for, row.defence] = row
    parts = []
    for (crafted_for, defence), row in worst.items():
        counted = f"{row.succeeded} of {row.attacked}"
        if crafted_for is not None:
            parts.append(f"{defence}, {counted} by an attacker who knows the defence")
        elif defence == "none":
            parts.append(f"without a defence {counted} attacks succeed")
        else:
            parts.append(f"{defence}, {counted}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _share(row: Row) -> float:
    return row.succeeded / row.attacked if row.attacked else 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What audit.json says; parameters: everything that decides the result."""

    format: int = 1
    tool: str
    headline: str
    attack: str
    paper: str
    rows: list[Row]
    trials: list[Outcome]
    classes: list[str]
    images: int
    test_images: int
    victim: str
    remarks: list[str]
    parameters: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True)
class AuditResult:
    """What `audit` did. rows: see Row; seconds: wall time of this call."""

    out: str
    headline: str
    attack: str
    targets: int
    rows: list[dict[str, Any]]
    already_complete: bool
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "audit", **asdict(self)}


@dataclass(frozen=True)
class AuditDryRun:
    """What `audit` would do. seconds: of all of it, from a few images and steps; an attack that converges early takes
    less.
    """

    out: str
    attack: str
    images: int
    classes: list[str]
    test_images: int
    targets: int
    poisons: int
    defences: list[str]
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "audit", "dry_run": True, **asdict(self)}
