"""What an attacker takes for the victim: the way from an image to the row that a head learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.attacks.sight import Sight
from dpclean.audit.victims.heads import Linear, Logistic
from dpclean.audit.victims.victim import Victim, never
from dpclean.data.dataset import Images
from dpclean.train.extractor import Extractor


class Surrogate:
    """The victim's network, or one that learned as the victim does, of an attacker who knows of no defence.

    images: all that the victim learns from, unpoisoned. seed: of what the attacker draws. Nothing is made before it is
    asked for.
    """

    most_steps = 60  # of crafting

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
    def device(self) -> torch.device:
        return self.extractor.trainer.device

    @cached_property
    def head(self) -> Linear:
        """What a victim would learn on the rows of the images without any poison."""
        rows = self.extractor.features(list(self._pool))
        return Logistic().fit(rows, self.images.labels, len(self.images.classes), check=self._check)

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """float [N,D] of grey levels [N,C,H,W], for gradients. places: of the images among the poisons."""
        return self.extractor.differentiable_features(self.sight.levels(levels, places))

    def row_of(self, image: NDArray[np.uint8]) -> Tensor:
        """float [D] of an image [H,W,C] that nobody sanitizes: what the victim is asked about."""
        return torch.from_numpy(self.extractor.features([image])[0]).to(self.device)

    def pull(self, rows: Tensor, label: int) -> Tensor:
        """What is added to an attack's loss to draw rows to the target's class; nothing here."""
        return rows.new_zeros(())
