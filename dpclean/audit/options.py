"""What `audit` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dpclean.audit.attacks import find_attack
from dpclean.audit.defences import find_defences
from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_holdout, check_ranges, check_seed
from dpclean.noise import SIGMA_MAX
from dpclean.threads import check_threads


class AuditKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in AuditOptions, which checks them."""

    extractor: str | os.PathLike[str] | None
    weights: str | os.PathLike[str] | None
    test: str | os.PathLike[str] | None
    holdout: float | None
    attack: str
    adaptive: bool
    eps: int
    poisons: int
    targets: int
    setups: str | os.PathLike[str] | None
    defence: str
    sigma: str
    denoiser: str | os.PathLike[str]
    method: str
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class AuditOptions:
    """The options of `audit`; names and defaults are those of the command line. Raises UsageError.

    eps: in grey levels. defence: names, with commas between them. sigma: noise levels on the [0, 1] pixel scale, with
    commas between them.
    """

    extractor: str | None = None
    weights: Path | None = None
    test: Path | None = None
    holdout: float | None = None
    attack: str = "bullseye-polytope"
    adaptive: bool = False
    eps: int = 16
    poisons: int = 25
    targets: int = 20
    setups: Path | None = None
    defence: str = "sanitized"
    sigma: str = "0.1,0.25"
    denoiser: str = "natural"
    method: str = "one-step"
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.extractor is None:
            raise UsageError(
                "missing option '--extractor'",
                "give a model of 'dpclean train' on other images, torchvision:NAME with --weights FILE,"
                " or efficientnet-lite0",
            )
        find_attack(self.attack)
        find_defences(self.defence)
        find_method(self.method)
        check_holdout(self.holdout, self.test)
        check_ranges(eps=self.eps, poisons=self.poisons, targets=self.targets, workers=self.workers)
        check_seed(self.seed)
        check_threads(self.threads)
        _ = self.sigmas

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels to defend with, in order, each once."""
        found = []
        for text in self.sigma.split(","):
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not 0 < value <= SIGMA_MAX:
                raise UsageError(
                    f"sigma must be above 0 and at most {SIGMA_MAX:g} on the [0, 1] pixel scale, got {text.strip()!r}",
                    "give noise levels with commas between them, as in 0.1,0.25; the row without noise is always there",
                )
            found.append(value)
        return tuple(dict.fromkeys(found))
