"""What `audit --attack pgd` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.registry import find_defences
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.evasion.pgd import LINF, Budget
from dpclean.audit.options import DefenceOptions
from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_ranges, check_seed
from dpclean.threads import check_threads

LONGEST = 255_000  # grey levels: of changes, in Euclidean length
PURIFIERS = (Nothing, Sanitized)  # what gradients are followed through


class EvasionKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in EvasionOptions, which checks them."""

    model: str | os.PathLike[str] | None
    weights: str | os.PathLike[str] | None
    test: str | os.PathLike[str] | None
    norm: str
    eps: int
    steps: int
    draws: int
    votes: int
    targets: int
    defence: str | Sequence[str]
    sigma: str
    denoiser: str | os.PathLike[str]
    method: str
    certificate: Sequence[str | os.PathLike[str]]
    seed: int
    device: str
    workers: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class EvasionOptions(DefenceOptions):
    """The options of `audit --attack pgd`; names and defaults are those of the command line. Raises UsageError.

    targets: test images that are attacked. eps: in grey levels, of a norm. steps: of the descent; draws: of the noise,
    for each; votes: draws of it by which an image is judged. certificate: made at test time, one for a purifier.
    defence, sigma, denoiser, method: as in AuditOptions.
    """

    model: str | None = None
    weights: Path | None = None
    test: Path | None = None
    norm: str = "linf"
    eps: int = 8
    steps: int = 40
    draws: int = 20
    votes: int = 100
    targets: int = 20
    defence: str | tuple[str, ...] = "sanitized"
    sigma: str = "0.1,0.25"
    denoiser: str = "natural"
    method: str = "one-step"
    certificate: tuple[Path, ...] = ()
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if missing := [name for name in ("model", "test") if getattr(self, name) is None]:
            raise UsageError(
                f"missing option '--{missing[0]}'",
                "give --model, which is attacked, and --test, labelled images that are changed",
            )
        _ = self.budget, self.sigmas
        ranged = ("steps", "draws", "votes", "targets", "workers", *(("eps",) if self.norm == LINF else ()))
        check_ranges(**{name: getattr(self, name) for name in ranged})
        if not 1 <= self.eps <= LONGEST:
            raise UsageError(
                f"eps must be from 1 to {LONGEST} grey levels in Euclidean length, got {self.eps}",
                "128 is a common choice: 0.5 where pixel values go from 0 to 1",
            )
        for asked in find_defences(self.defences):
            if asked.kind not in PURIFIERS:
                raise UsageError(
                    f"defence {asked.kind.name!r} is nothing that a test image goes through on its way to a model, with"
                    " gradients",
                    f"give {' or '.join(kind.name for kind in PURIFIERS)}",
                )
        find_method(self.method)
        check_seed(self.seed)
        check_threads(self.threads)

    @property
    def budget(self) -> Budget:
        return Budget(self.norm, self.eps)
