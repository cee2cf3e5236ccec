"""The attacker who knows the defence: he sees through it, and guesses all but the key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.audit.attacks.surrogate import Surrogate

PULL = 0.1  # weight of the cross-entropy towards the target's class beside an attack's own loss, which begins near 1


class Informed(Surrogate):
    """The network behind the very defence, with fresh chance at each look.

    Rows are standardised as the victim's head does it, by a pool of his own: all images with noise under his own key.
    A head that he trains on that pool draws the poisons to the target's class, so that they lie on the far side of what
    the victim would learn without them. Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security".
    """

    most_steps = 150

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        return self._standardised(super().rows(levels, places))

    def rows_of(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return self._standardised(super().rows_of(images))

    def pull(self, rows: Tensor, label: int) -> Tensor:
        wanted = torch.full((len(rows),), label, device=rows.device)
        _, _, weights, bias = self.head_parts
        return PULL * functional.cross_entropy(rows @ weights + bias, wanted)

    def _standardised(self, rows: Tensor) -> Tensor:
        centre, scale, _, _ = self.head_parts
        return (rows - centre) / scale
