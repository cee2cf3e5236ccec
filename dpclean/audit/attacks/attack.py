"""What an attack is: some images changed so that a model which learns from them takes for one class what is of another.

It is after one image, its target, or after every image that its trigger is put on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Trigger
from dpclean.audit.victims.frozen import FROZEN


@dataclass(frozen=True)
class Case:
    """What an attack is to do: with images uint8 [H,W,C], none of whose pixel values may change by more than eps grey
    levels, and which the victim will learn as of the poison class.

    target, asked_class: the image that is to be taken for it, and its class. Where a trigger is to do that there is no
    target, and asked_class is the one that it is to work on, None for all. seed: of what the attack draws. places: of
    the bases among all images. number: of the trial, from 1.
    """

    bases: Sequence[NDArray[np.uint8]]
    poison_class: int
    eps: int
    target: NDArray[np.uint8] | None = None
    asked_class: int | None = None
    seed: int = 0
    places: Sequence[int] = ()
    number: int = 1


@dataclass(frozen=True)
class Crafted:
    """Poisons uint8 [H,W,C] in the order of their bases, and the trigger that they are for. distances: of the mean of
    their rows from the target's, or from that of what the trigger is on, as a share of its length; None where an attack
    has no such thing. bases: what was changed, where these are not the images of RAW.
    """

    pixels: list[NDArray[np.uint8]]
    steps: int = 0
    trigger: Trigger | None = None
    distance_before: float | None = None
    distance_after: float | None = None
    bases: list[NDArray[np.uint8]] | None = None


class Attack(ABC):
    """name, paper: as lists have them. about: what it does, in a sentence without a full stop. victims: the kinds of
    them that it is made for.

    has_trigger: it is after every image with its trigger. one_source: of one class alone. relabels: its bases are of
    other classes, and get the label of the poison class; else they are of that class. has_gradients: there is something
    to adapt to a defence. one_shape: all images must have one. retrainings: how many networks the attacker
    trains anew for a trial, beside the one that serves all. beyond: what of a poison's change eps does not bound,
    for a page.
    """

    name: str
    paper: str
    about: str
    victims: Sequence[str] = (FROZEN,)
    has_trigger: bool = False
    one_source: bool = False
    relabels: bool = False
    has_gradients: bool = True
    one_shape: bool = False
    retrainings: int = 0
    beyond: str = ""

    def parameters(self) -> dict[str, str]:
        """What decides its poisons, beside its name and what every attack is given."""
        return {}

    def most_steps(self, surrogate: Surrogate) -> int:
        """Of crafting."""
        return surrogate.most_steps

    @abstractmethod
    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        """The poisons. on_step: is called after each step, and may raise."""


Objective = Callable[[Tensor, Sequence[int]], Tensor]


class Following(Attack):
    """An attack that makes one number small, which others can follow as well."""

    @abstractmethod
    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        """That number, for gradients, of grey levels [N,C,H,W] of poisons in these places among all poisons."""
