"""What `certify` tells while it runs, when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a job is: runs that are in, of those announced. certified: of the points so far, with `anytime` only."""

    finished: int
    total: int
    failed: int
    seconds_left: float | None
    certified: str | None
    unit: str = "runs"

    @property
    def said(self) -> str:
        """The rest in words."""
        left = "time left not known yet" if self.seconds_left is None else f"{self.seconds_left:.0f} s left"
        return ", ".join(filter(None, (left, f"{self.failed} failed", self.certified)))


@dataclass(frozen=True)
class CertifyResult:
    """What `certify` did. largest_radius, median_radius and ceiling are decimals with 6 places, rounded down."""

    out: str
    kind: str
    job: str
    attempt: int | None  # of jobs begun in this place, None for votes from elsewhere
    runs: int
    runs_done_now: int
    failed: int
    points: int
    certified: int
    abstained: int
    correct: int | None
    labelled: int
    largest_radius: str
    median_radius: str
    ceiling: str
    already_complete: bool
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "certify", **asdict(self)}


@dataclass(frozen=True)
class Trial:
    """What `certify` would do, judged by one run whose key is thrown away. bytes: at most, while it runs."""

    out: str
    images: int
    points: int
    classes: int
    sigma: str
    runs: int
    workers: int
    seconds_by_part: dict[str, float]
    seconds: float
    bytes: int
    ceiling: str

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "certify", "dry_run": True, **asdict(self)}


@dataclass(frozen=True)
class VotedImage:
    """What the kept models say of an image; predicted is None where they abstain. votes: for the first class."""

    name: str
    predicted: str | None
    certified_radius: str
    votes: int
    runs: int
