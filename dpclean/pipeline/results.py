"""What `sanitize` tells while it runs, when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a job is: inputs done with, of the listing, and how many of them were left out."""

    finished: int
    total: int
    quarantined: int
    images_per_second: float
    unit: str = "images"
    under_way: float = 0.0  # inputs' worth of work that is done beside those finished
    pixels: tuple[float, int] = (0.0, 0)  # done and in all, of the images under way

    @property
    def said(self) -> str:
        """The rest in words."""
        done, pixels = self.pixels
        current = f", {done / 1e6:.1f} of {pixels / 1e6:.1f} megapixels under way" if done else ""
        left = f"{self.seconds_left:.0f} s left" if self.images_per_second else "time left not known yet"
        return f"{self.images_per_second:.3g} images/s, {left}, {self.quarantined} left out{current}"

    @property
    def seconds_left(self) -> float:
        """At the present rate."""
        return (self.total - self.finished - self.under_way) / max(self.images_per_second, 1e-9)


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
class Plan:
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

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "sanitize", "dry_run": True, **asdict(self)}
