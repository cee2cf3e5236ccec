"""What `train` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dpclean.errors import UsageError
from dpclean.jobs.checks import check_holdout, check_ranges, check_seed
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
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`; names and defaults are those of the command line. Raises UsageError."""

    test: Path | None = None
    holdout: float | None = None
    recipe: str | None = None
    init: str | None = None
    freeze: bool = False
    warm_start: Path | None = None
    warm_epochs: int = 10
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
        check_seed(self.seed)
        check_ranges(warm_epochs=self.warm_epochs, workers=self.workers)
