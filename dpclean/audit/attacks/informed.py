"""The attacker who knows the defence: he sees through it, and guesses all but the key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.audit.attacks.surrogate import Aim, Surrogate
from dpclean.audit.attacks.taught_head import TaughtHead

PULL = 0.1  # weight of the cross-entropy towards the asked class beside an attack's own loss, which begins near 1


class Informed(Surrogate):
    """The network behind the very defence, with fresh chance at each look.

    Rows are standardised as the victim's head does it, by a pool of his own: all images with noise under his own key.
    Where an attack works on rows he adds two aims to its own: that the head which would be learned from the poisons
    makes the mistake, and that they lie on the far side of what would be learned without them. Athalye et al. 2018,
    "Obfuscated Gradients Give a False Sense of Security".
    """

    most_steps = 100
    rate = 1 / 2

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        return self._standardised(super().rows(levels, places))

    def rows_of(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return self._standardised(super().rows_of(images))

    def aim(self, places: Sequence[int], poison_class: int, asked_class: int) -> Aim:
        _, _, weights, bias = self.head_parts
        others = np.setdiff1d(np.arange(len(self.images)), places)
        rows = self._standardised(torch.from_numpy(self.pool_rows[others]).to(self.device))
        labels = torch.from_numpy(self.images.labels[others]).to(self.device)
        taught = TaughtHead(rows, labels, torch.cat([weights, bias[None]]))

        def aim(poisons: Tensor, asked: Tensor) -> Tensor:
            wanted = torch.full((len(poisons),), asked_class, device=poisons.device)
            pulled = functional.cross_entropy(poisons @ weights + bias, wanted)
            return taught.mistake(poisons, poison_class, asked) + PULL * pulled

        return aim

    def _standardised(self, rows: Tensor) -> Tensor:
        centre, scale, _, _ = self.head_parts
        return (rows - centre) / scale
