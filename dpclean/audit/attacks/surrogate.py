"""What an attacker takes for the victim: the way from an image to the row that a head learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.train.extractor import Extractor

# (grey levels [N,C,H,W], places of the images among the poisons) to the same behind a defence, with fresh noise
Defended = Callable[[Tensor, Sequence[int]], Tensor]


class Surrogate:
    """The extractor, as it is: an attacker who does not know of any defence."""

    most_steps = 60  # of crafting

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.device = extractor.trainer.device

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """float [N,D] of grey levels [N,C,H,W], for gradients. places: of the images among the poisons."""
        return self.extractor.differentiable_features(levels)

    def row_of(self, image: NDArray[np.uint8]) -> Tensor:
        """float [D] of an image [H,W,C] that nobody sanitizes: what the victim is asked about."""
        return torch.from_numpy(self.extractor.features([image])[0]).to(self.device)

    def pull(self, rows: Tensor, label: int) -> Tensor:
        """What is added to an attack's loss to draw rows to the target's class; nothing here."""
        return rows.new_zeros(())
