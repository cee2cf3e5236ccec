"""What a defence is: something done to training images, or to the choice of them, before a victim learns from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.sight import Sight
from dpclean.audit.victims.victim import Learned, Learner, Seen, Victim
from dpclean.data.dataset import Images
from dpclean.errors import UsageError
from dpclean.jobs.record import Json

Pixels = Sequence[NDArray[np.uint8]]
Check = Callable[[], None]  # called now and then; raises to stop


@dataclass(frozen=True)
class Setting:
    """What defences are made with. key: of their noise, which no attacker is given. poisons: of an attack, at most.
    asked: about how many images victims are asked in all trials together, each counted as often. victim: who learns
    behind them, None where nobody does.
    """

    sigmas: Sequence[float]
    denoiser: str
    method: str
    device: str
    key: bytes
    poisons: int
    asked: int
    victim: Victim | None = None


@dataclass(frozen=True)
class Filtered:
    """What a defence makes of all images together: the images [H,W,C], and bool [N] which of them are left."""

    images: list[NDArray[np.uint8]]
    kept: NDArray[np.bool_]


@runtime_checkable
class Certified(Learned, Protocol):
    """What has learned and knows how far its answers hold, whatever an attacker has done."""

    def reach(self, points: Seen) -> NDArray[np.int64]:
        """How many training images, changed at will in their places, leave the answer what it is, int64 [P]; 0 where
        there is none.
        """


class Defence(ABC):
    """One defence with its settings.

    name, paper, about: as lists have them. takes: what stands behind a colon after its name. label: what a table calls
    it. sigma: of its noise, None without any. changes: whether `apply` changes images. together: whether it is asked by
    `filtered` about all images together, in place of that. chooses: whether it leaves images out, by their rows.
    frozen_only: whether it has a meaning only where a victim reads features of a frozen network; scratch_only: only
    where it learns all its weights; looks_inside: only where its network can be looked into.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    about: ClassVar[str]
    takes: ClassVar[str] = ""
    changes: ClassVar[bool] = False
    together: ClassVar[bool] = False
    sigma: float | None = None
    chooses: ClassVar[bool] = False
    frozen_only: ClassVar[bool] = False
    scratch_only: ClassVar[bool] = False
    looks_inside: ClassVar[bool] = False

    @classmethod
    def asked_as(cls) -> str:
        """How it is named on a command line."""
        return f"{cls.name}:{cls.takes}" if cls.takes else cls.name

    @property
    def label(self) -> str:
        return self.name if self.sigma is None else f"{self.name} at {self.sigma:g}"

    @classmethod
    def check(cls, argument: str) -> None:
        """Raises UsageError for what cannot stand behind its name."""
        if argument:
            raise UsageError(f"defence {cls.name!r} takes nothing, got {argument!r}", f"give {cls.name} alone")

    @classmethod
    def reads(cls, argument: str) -> Sequence[str]:
        """What paths stand behind its name, if anything does."""
        return ()

    @classmethod
    @abstractmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        """One, or one for each noise level. argument: one that check lets pass."""

    def parameters(self) -> Json:
        """What decides what it does, beside its label and the setting."""
        return {}

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """The images [H,W,C] as the victim gets them, each a function of itself, its index and the run."""
        return list(images)

    def filtered(
        self, images: Pixels, labels: NDArray[np.int64], classes: Sequence[str], check: Check = lambda: None
    ) -> Filtered:
        """All images [H,W,C] with their labels [N], as the victim gets them. Raises InputError."""
        return Filtered(list(images), np.ones(len(images), np.bool_))

    def kept(self, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the images, rows of features [N,D], the victim learns from."""
        return np.ones(len(rows), np.bool_)

    def learners(self, images: Images) -> Sequence[Learner]:
        """What learns in place of the victim's own learners, from all images as they were planted; () for these."""
        return ()

    def seconds(self, images: Images, seen: Seen) -> float:
        """How long it takes about for one victim, beside what `apply` takes, from a part of the work."""
        return 0.0

    def seen_through(self, key: bytes) -> Sight | None:
        """What an attacker sees who knows this defence, with a key of his own; None where nobody has made that."""
        return None
