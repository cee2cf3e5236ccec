"""What `certify` tells while it runs, when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CertifyResult:
    """What `certify` did. largest_radius, median_radius and ceiling are decimals with 6 places, rounded down."""

    out: str
    kind: str
    job: str
    attempt: int | None  # of jobs begun in this place, None for votes from elsewhere
    threat: str
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
    images: int | None = None  # training images, where each run takes a share of them, or a part
    partitions: int | None = None
    accuracy_by_images: dict[str, Any] | None = None  # of the certificate
    headline: str | None = None  # what it says of whole images, in a sentence or two
    members: str | None = None  # how many images a run took, in words

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "certify", **asdict(self)}


@dataclass(frozen=True)
class CertifyDryRun:
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
    members: float | None = None  # images of a run, where it takes a share: the mean and the standard deviation
    spread: float | None = None
    most_images: dict[str, int] | None = None  # of each kind by itself, on a point where all runs agree
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "certify", "dry_run": True, **asdict(self)}


@dataclass(frozen=True)
class VotedImage:
    """What the kept models say of an image; predicted is None where they abstain. votes: for the first class, of so
    many runs: all but those that select the class.

    whole: with --subsample or --partitions, the images that may have been inserted, changed or missing.
    """

    name: str
    predicted: str | None
    certified_radius: str
    votes: int
    runs: int
    whole: dict[str, int]
