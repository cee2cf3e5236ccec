"""What `sanitize` tells while it runs, when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SanitizeResult:
    """What `sanitize` did. seconds: wall time of this call; images_per_second: of what this call sanitized."""

    out: str
    sigma: float
    images: int
    quarantined: dict[str, int]
    left_behind: int
    hidden: int
    not_finite_retried: int
    already_complete: bool
    seconds: float
    images_per_second: float
    device: str
    dtype: str
    kernel: str
    warnings: list[str]
    report: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "sanitize", **asdict(self)}


@dataclass(frozen=True)
class SanitizeDryRun:
    """What `sanitize` would do, judged by the first images. bytes: at most, on the disk of OUT."""

    out: str
    listed: int
    classes: list[str]
    kind: str
    sampled: int
    unusable_in_sample: int
    megapixels: float
    seconds: float
    bytes: int
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "sanitize", "dry_run": True, **asdict(self)}
