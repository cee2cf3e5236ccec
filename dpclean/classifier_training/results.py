"""What `train` tells while it runs, when it has run, and before it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What `train` did. accuracy: on the test images, None without any; seconds: wall time of this call.

    sigma_augment: the noise of each epoch, None without; accuracy_denoised: on the test images, noised and denoised
    alike.
    """

    out: str
    recipe: dict[str, Any]
    seed: int
    device: str
    images: int
    classes: list[str]
    test_source: str | None
    test_images: int
    accuracy: float | None
    accuracy_per_class: dict[str, float | None]
    certifiable: bool
    sigma_augment: float | None
    accuracy_denoised: float | None
    already_complete: bool
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "train", **asdict(self)}


@dataclass(frozen=True)
class TrainDryRun:
    """What `train` would do. seconds: of training, judged by the first steps."""

    out: str
    recipe: dict[str, Any]
    images: int
    classes: list[str]
    size: int
    test_source: str | None
    test_images: int
    steps: int
    seconds: float
    bytes: int
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "train", "dry_run": True, **asdict(self)}
