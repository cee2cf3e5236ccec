"""What `denoiser fit` tells when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """What `denoiser fit` did. seconds: wall time of this call."""

    out: str
    images: int
    quarantined: dict[str, int]
    steps: int
    seed: int
    device: str
    already_complete: bool
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "denoiser fit", **asdict(self)}


@dataclass(frozen=True)
class FitDryRun:
    """What `denoiser fit` would do, judged by the first steps.

    seconds: of all steps. memory_bytes: the most that was taken while they were done, on a GPU of its memory. bytes: of
    the weights, and of the checkpoint beside OUT while the job runs.
    """

    out: str
    images: int
    quarantined: dict[str, int]
    patches: int
    steps: int
    seconds: float
    device: str
    memory_bytes: int
    bytes: int
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "denoiser fit", "dry_run": True, **asdict(self)}
