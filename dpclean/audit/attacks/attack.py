"""What an attack is: images of one class, changed so that a model learns to take one other image for that class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from dpclean.audit.victims.frozen import FROZEN


class Attack(ABC):
    """An attack on the rows of features that a victim learns from; a loss says what its poisons are to become.

    name, paper: as lists have them. about: what it does, in a sentence without a full stop. victims: the kinds of them
    that it is made for.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    about: ClassVar[str]
    victims: ClassVar[Sequence[str]] = (FROZEN,)

    @abstractmethod
    def loss(self, poisons: Tensor, target: Tensor) -> Tensor:
        """What the attacker makes small: of the poisons' rows float [P,D] and the target's row [D]; 0 at best."""
