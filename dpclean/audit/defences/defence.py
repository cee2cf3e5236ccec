"""What a defence is: something done to training images, each by itself, before a victim learns from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Images = Sequence[NDArray[np.uint8]]


class Defence(ABC):
    """One defence with its settings.

    name, paper, about: as lists have them. label: what a table calls it. sigma: of its noise, None without any.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    about: ClassVar[str]
    sigma: float | None = None

    @property
    def label(self) -> str:
        return self.name if self.sigma is None else f"{self.name} at {self.sigma:g}"

    @abstractmethod
    def apply(
        self, images: Images, *, indices: Sequence[int], run: int, on_batch: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """The images [H,W,C] as the victim gets them, each a function of itself, its index and the run.

        on_batch: is called now and then, and may raise to end the work.
        """
