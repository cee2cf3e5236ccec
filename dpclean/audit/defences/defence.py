"""What a defence is: something done to training images, or to the choice of them, before a victim learns from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.sight import Sight

Pixels = Sequence[NDArray[np.uint8]]
Check = Callable[[], None]  # called now and then; raises to stop


@dataclass(frozen=True)
class Setting:
    """What defences are made with. key: of their noise, which no attacker is given."""

    sigmas: Sequence[float]
    denoiser: str
    method: str
    device: str
    key: bytes


class Defence(ABC):
    """One defence with its settings.

    name, paper, about: as lists have them. label: what a table calls it. sigma: of its noise, None without any.
    chooses: whether it leaves images out, by their rows.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    about: ClassVar[str]
    sigma: float | None = None
    chooses: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return self.name if self.sigma is None else f"{self.name} at {self.sigma:g}"

    @classmethod
    @abstractmethod
    def made(cls, setting: Setting) -> Sequence[Defence]:
        """One, or one for each noise level."""

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """The images [H,W,C] as the victim gets them, each a function of itself, its index and the run."""
        return list(images)

    def kept(self, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the images, rows of features [N,D], the victim learns from."""
        return np.ones(len(rows), np.bool_)

    def seen_through(self, key: bytes) -> Sight | None:
        """What an attacker sees who knows this defence, with a key of his own; None where nobody has made that."""
        return None
