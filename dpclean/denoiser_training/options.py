"""What `denoiser fit` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypedDict

from dpclean.jobs.checks import check_ranges, check_seed
from dpclean.threads import check_threads
from dpclean.train.model import Classifier

RATE, RATE_FROM_INIT = 1e-3, 3e-4


class FitKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in FitOptions, which checks them."""

    init: str | os.PathLike[str] | None
    classifier: Classifier | None
    minutes: float
    steps: int | None
    batch_size: int
    learning_rate: float | None
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class FitOptions:
    """The options of `denoiser fit`; names and defaults are those of the command line. Raises UsageError.

    init: a denoiser whose network and weights to begin from, else the bundled one's network and random weights.
    classifier: one trained on trusted images, in whose features too the results shall be near (perceptual_loss.py).
    steps: how many, else as many as fit into the minutes by the speed of the first few.
    """

    init: str | None = None
    classifier: Classifier | None = None
    minutes: float = 60.0
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            **{name: getattr(self, name) for name in ("minutes", "steps", "batch_size", "learning_rate", "workers")}
        )
        check_threads(self.threads)
        check_seed(self.seed, below=1 << 32)

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return RATE if self.init is None else RATE_FROM_INIT
