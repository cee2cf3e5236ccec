"""What an audit has found: one row an attacker, defence and head; the sentence that says it first; what is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import msgspec
import numpy as np

from dpclean.audit.experiment import Outcome, Verdict
from dpclean.errors import InputError
from dpclean.jobs.job import Call
from dpclean.versioned import read_versioned

NAME, FORMAT = "audit.json", 1
CONFIDENCE = 0.95
CHANCES = 1.5  # times what guessing gets right: with less, a victim has hardly learned


class Row(msgspec.Struct, frozen=True):
    """One attacker against one defence and one way of training the victim, a head or a recipe. crafted_for: the sigma
    that he knows, of the defence that he knows.

    trials: all targets; for a trigger, all test images with it on them, of every trial. skipped: targets that the
    control gets wrong without any poison, so that an attack shows nothing. succeeded: of the others, those that the
    victim takes for the poison class; low, high: Wilson's 95 % interval of their share. control: of all, those that the
    victim takes for it without any poison. accuracies, seconds and distances are means over trials. covered: of those
    attacked, the ones where the certificate of the control's answer allows for as many changed images as there are
    poisons, so that none of these can have succeeded; reach: for how many it allows, their median; both None where a
    defence certifies nothing.
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
    distance_before: float | None
    distance_after: float | None
    covered: int | None = None
    reach: int | None = None
    knows: str | None = None

    @property
    def attacker(self) -> str:
        """What he knows, in words."""
        return self.knows or "no defence"

    @property
    def attacked(self) -> int:
        return self.trials - self.skipped


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """One for each place among the verdicts of a trial."""
    places = range(len(outcomes[0].verdicts))
    return [_row([outcome.verdicts[place] for outcome in outcomes], outcomes) for place in places]


def _row(verdicts: Sequence[Verdict], outcomes: Sequence[Outcome]) -> Row:
    tried, skipped = sum(one.tried for one in verdicts), sum(one.skipped for one in verdicts)
    succeeded = sum(one.succeeded for one in verdicts)
    knows = verdicts[0].knows
    craftings = [one for outcome in outcomes for one in outcome.craftings if one.knows == knows]
    low, high = wilson(succeeded, tried - skipped)
    reaches = [(one.reach, len(outcome.trial.bases)) for one, outcome in zip(verdicts, outcomes, strict=True)]
    allowed = [(reach, poisons) for each, poisons in reaches if each is not None for reach in each]
    certifies = verdicts[0].reach is not None
    return Row(
        crafted_for=verdicts[0].crafted_for,
        defence=verdicts[0].defence,
        head=verdicts[0].head,
        trials=tried,
        skipped=skipped,
        succeeded=succeeded,
        low=round(low, 4),
        high=round(high, 4),
        control=sum(one.control for one in verdicts),
        accuracy=_mean([verdict.poisoned_accuracy for verdict in verdicts]),
        control_accuracy=_mean([verdict.control_accuracy for verdict in verdicts]),
        crafting_seconds=_mean([one.seconds for one in craftings]),
        distance_before=_mean_where_known([one.distance_before for one in craftings]),
        distance_after=_mean_where_known([one.distance_after for one in craftings]),
        covered=sum(reach >= poisons for reach, poisons in allowed) if certifies else None,
        reach=int(median_low([reach for reach, _ in allowed] or [0])) if certifies else None,
        knows=knows,
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _mean_where_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None


def wilson(succeeded: int, attacked: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; without any trial everything is possible."""
    from scipy.stats import binomtest

    if not attacked:
        return 0.0, 1.0
    found = binomtest(succeeded, attacked).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def headline(rows: Sequence[Row], *, trigger: bool = False) -> str:
    """The one sentence that says it; of the heads it counts the one that serves the attacker best."""
    happens = "test images with the trigger are taken for the attacker's class" if trigger else "attacks succeed"
    worst: dict[tuple[float | None, str], Row] = {}
    for row in rows:
        known = worst.get((row.crafted_for, row.defence))
        if known is None or _share(row) > _share(known):
            worst[row.crafted_for, row.defence] = row
    parts = []
    for (crafted_for, defence), row in worst.items():
        counted = f"{row.succeeded} of {row.attacked}"
        if row.covered is not None:
            counted += f" (proved for {row.covered} of them)"
        if crafted_for is not None:
            parts.append(f"{defence}, {counted} by an attacker who knows the defence")
        elif defence == "none":
            parts.append(f"without a defence {counted} {happens}")
        else:
            parts.append(f"{defence}, {counted}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def doubts(rows: Sequence[Row], classes: int) -> list[str]:
    """Why the rows show little, where the victim hardly learns even from the images as they are; one sentence each."""
    return [
        f"without poison and defence the victim {row.head!r} is right on {100 * row.control_accuracy:.0f} % of the test"
        " images, little more than chance, so its rows show little: give more images, or another victim"
        for row in rows
        if row.crafted_for is None and row.defence == "none" and row.control_accuracy < CHANCES / classes
    ]


def _share(row: Row) -> float:
    return row.succeeded / row.attacked if row.attacked else 0.0


class Made(msgspec.Struct, frozen=True):
    """What audit.json of any kind says of how it was made."""

    parameters: dict[str, Any]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What audit.json says; parameters: everything that decides the result."""

    format: int = FORMAT
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


Told = TypeVar("Told")


def read_report(out: Path, kind: type[Told]) -> Told:
    """What audit.json says. Raises InputError where it is no such report, ConflictError for a newer format."""
    remedy = "restore the file, or start again with --overwrite"
    found = read_versioned(
        out / NAME, FORMAT, lambda fields: msgspec.convert(fields, kind), "describes no audit of this kind", remedy
    )
    if found is None:
        raise InputError(f"{str(out / NAME)!r} is gone", remedy)
    return found


@dataclass(frozen=True)
class AuditResult:
    """What `audit` did. rows: the Row of its kind of audit; seconds: wall time of this call."""

    out: str
    headline: str
    attack: str
    targets: int
    rows: list[dict[str, Any]]
    already_complete: bool
    seconds: float
    warnings: list[str]

    @classmethod
    def of(cls, out: Path, report: Any, targets: int, call: Call) -> AuditResult:
        """From the report of either kind."""
        return cls(
            out=str(out),
            headline=report.headline,
            attack=report.attack,
            targets=targets,
            rows=[msgspec.to_builtins(row) for row in report.rows],
            already_complete=call.already_complete,
            seconds=round(call.seconds, 3),
            warnings=report.remarks,
        )

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
