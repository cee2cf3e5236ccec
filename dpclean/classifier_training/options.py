"""What `train` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_holdout, check_ranges, check_seed
from dpclean.noise import SIGMA_MAX
from dpclean.threads import check_threads
from dpclean.train.recipes import find_recipe


class TrainKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in TrainOptions, which checks them."""

    test: str | os.PathLike[str] | None
    holdout: float | None
    recipe: str | None
    init: str | os.PathLike[str] | None
    freeze: bool
    warm_start: str | os.PathLike[str] | None
    warm_epochs: int
    sigma_augment: float | None
    denoiser: str | os.PathLike[str] | None
    method: str | None
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`; names and defaults are those of the command line. Raises UsageError.

    sigma_augment: noise on the [0, 1] pixel scale that the images get anew in every epoch, and that denoiser takes
    away again by method, as `sanitize` would; None for these stands for natural and one-step.
    """

    test: Path | None = None
    holdout: float | None = None
    recipe: str | None = None
    init: str | None = None
    freeze: bool = False
    warm_start: Path | None = None
    warm_epochs: int = 10
    sigma_augment: float | None = None
    denoiser: str | None = None
    method: str | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if self.recipe is not None:
            find_recipe(self.recipe)
        check_holdout(self.holdout, self.test)
        if self.freeze and self.init is None:
            raise UsageError("--freeze keeps the weights of --init, which is not given", "give --init, or no --freeze")
        if self.init is not None and self.warm_start is not None:
            raise UsageError("--init and --warm-start both say where to begin", "give one of them")
        self._check_augmentation()
        check_seed(self.seed)
        check_ranges(warm_epochs=self.warm_epochs, workers=self.workers)

    def _check_augmentation(self) -> None:
        if self.sigma_augment is None:
            if given := [name for name in ("denoiser", "method") if getattr(self, name) is not None]:
                raise UsageError(
                    f"--{given[0]} says how the noise of --sigma-augment is taken away, which is not given",
                    "give --sigma-augment, or leave it out",
                )
            return
        if not 0 < self.sigma_augment <= SIGMA_MAX:
            raise UsageError(
                f"sigma-augment must be above 0 and at most {SIGMA_MAX:g} on the [0, 1] pixel scale,"
                f" got {self.sigma_augment:g}",
                "give the sigma that the model is to be used at",
            )
        if self.method is not None:
            find_method(self.method)
