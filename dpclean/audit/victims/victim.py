"""What a victim is: something that reads images, each by itself, and learns from them in one way or in several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dpclean.data.ancestry import Ancestry
from dpclean.train.extractor import Extractor

Pixels = Sequence[NDArray[np.uint8]]  # images [H,W,C]
Seen = NDArray[Any]  # [N,...]: what a victim reads of each of N images
Classes = NDArray[np.int64]
Check = Callable[[], None]  # called now and then; raises to stop


def never() -> None:
    """A check that stops nothing."""


class Learned(Protocol):
    def predict(self, points: Seen) -> Classes:
        """The class int64 [P] of each of what was read."""


class Learner(Protocol):
    """name: what tables call it. about: in a sentence without a full stop."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def fit(self, seen: Seen, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Learned:
        """From what was read of training images, and their labels [N]. seed: of what is drawn, if anything is; the
        same gives the same. Raises Diverged.
        """


class Victim(ABC):
    """about: for a page, without a full stop. limit: what an audit with it does not show, in sentences. is_open:
    whether it has a network that can be looked into. ancestry: of the weights that it begins with.
    """

    about: str
    limit: ClassVar[str]
    is_open: ClassVar[bool] = True
    learners: Sequence[Learner]
    ancestry: Ancestry

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Everything that decides what it learns, beside data and seeds, ready for JSON."""

    @abstractmethod
    def told(self) -> dict[str, str]:
        """What whoever loads poisons should know of it."""

    @abstractmethod
    def read(self, images: Pixels, check: Check = never) -> Seen:
        """What it learns from, or is asked about: of each image by itself."""

    @abstractmethod
    def rows(self, seen: Seen, labels: Classes, classes: int, seed: int, check: Check) -> NDArray[np.float32]:
        """Features [N,D] of training images, for defences that choose by them: where it has none before it has
        learned, those that it gets by learning from all of the images.
        """

    @abstractmethod
    def network(self, images: Pixels, labels: Classes, classes: int, seed: int, check: Check) -> Extractor:
        """Its network, for an attacker to look into: where it learns all its weights, another one that learned from
        these images in the same way.
        """

    @abstractmethod
    def sketch(self) -> Victim:
        """One that learns quickly and badly, to look ahead with."""

    @abstractmethod
    def seconds(self, seen: Seen, labels: Classes, classes: int) -> float:
        """How long all its learners take together, from one quick try."""
