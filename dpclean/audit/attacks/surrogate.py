"""What an attacker takes for the victim: the way from an image to the row that a head learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.attacks.descent import RATE
from dpclean.audit.attacks.sight import Sight
from dpclean.audit.victims.heads import Linear, Logistic
from dpclean.audit.victims.victim import Victim, never
from dpclean.data.dataset import Images
from dpclean.train.extractor import Extractor

# of the poisons' rows float [P,D], and of those that are to be taken for their class [K,D]
Aim = Callable[[Tensor, Tensor], Tensor]


class Surrogate:
    """The victim's network, or one that learned as the victim does, of an attacker who knows of no defence.

    images: all that the victim learns from, unpoisoned. seed: of what the attacker draws. Nothing is made before it is
    asked for.
    """

    most_steps = 60  # of crafting
    rate = RATE  # of eps, the first steps of images that are to be like others

    def __init__(
        self,
        victim: Victim,
        images: Images,
        sight: Sight | None = None,
        *,
        seed: int = 0,
        check: Callable[[], None] = never,
    ) -> None:
        self.images, self.sight, self.seed = images, sight or Sight(), seed
        self._victim, self._check = victim, check

    @cached_property
    def _pool(self) -> Sequence[NDArray[np.uint8]]:
        """All images, as the attacker guesses that the victim gets them."""
        return self.sight.images(self.images, self._check)

    @cached_property
    def extractor(self) -> Extractor:
        images = self.images
        return self._victim.network(self._pool, images.labels, len(images.classes), self.seed, self._check)

    @property
    def is_open(self) -> bool:
        """Whether it has a network to look into."""
        return self._victim.is_open

    @property
    def device(self) -> torch.device:
        return self.extractor.trainer.device

    @cached_property
    def head(self) -> Linear:
        """What a victim would learn on the rows of the images without any poison."""
        return Logistic().fit(self.pool_rows, self.images.labels, len(self.images.classes), check=self._check)

    @cached_property
    def pool_rows(self) -> NDArray[np.float32]:
        """The network's features of all images, as the attacker guesses that the victim gets them, float32 [N,D]."""
        return self.extractor.features(list(self._pool))

    @cached_property
    def head_parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the head, on the device: centre and scale of rows [D], weights [D,classes] and bias [classes]."""
        head = self.head
        found = (head.centre, head.scale, head.weights[:-1], head.weights[-1])
        centre, scale, weights, bias = (torch.from_numpy(part).float().to(self.device) for part in found)
        return centre, scale, weights, bias

    def levels(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """Grey levels [N,3,S,S] that the network gets where these [N,C,H,W] are learned from, for gradients. places: of
        the images among the poisons.
        """
        return self.extractor.brought_to_size(self.sight.levels(levels, places))

    def poisoned(self, places: Sequence[int], pixels: Sequence[NDArray[np.uint8]], number: int) -> Surrogate:
        """The same for a victim that learned from poisons [H,W,C] in these places of the images, with other draws for
        each number.
        """
        planted = list(self.images.pixels)
        for place, poison in zip(places, pixels, strict=True):
            planted[place] = poison
        images = replace(self.images, pixels=planted)
        return type(self)(self._victim, images, self.sight, seed=self.seed + number, check=self._check)

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """The network's features of the same, float [N,D]."""
        return self.extractor.differentiable_features(self.sight.levels(levels, places))

    def scores(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """What the head says of the same, float [N,classes]."""
        centre, scale, weights, bias = self.head_parts
        return (Surrogate.rows(self, levels, places) - centre) / scale @ weights + bias

    def row_of(self, image: NDArray[np.uint8]) -> Tensor:
        """float [D] of an image [H,W,C] that nobody sanitizes: what the victim is asked about."""
        return self.rows_of([image])[0]

    def rows_of(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """The same of several, float [N,D]."""
        return torch.from_numpy(self.extractor.features(list(images))).to(self.device)

    def aim(self, places: Sequence[int], poison_class: int, asked_class: int) -> Aim:
        """What is added to an attack's loss on rows, for poisons in these places of the images; nothing here."""
        return lambda poisons, asked: poisons.new_zeros(())
