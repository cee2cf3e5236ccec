"""Images that an attacker changes, each pixel value by a bounded number of grey levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Perturbation:
    """Changes of images uint8 [H,W,C] of any sizes, none of a pixel value by more than eps grey levels."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], eps: int, device: torch.device) -> None:
        shapes = sorted({image.shape for image in images})
        self.eps = eps
        self._places = [[place for place, image in enumerate(images) if image.shape == shape] for shape in shapes]
        self._bases = [_stacked([images[place] for place in places]).to(device) for places in self._places]
        self.changes = [torch.zeros_like(base, requires_grad=True) for base in self._bases]

    def seen_by(self, look: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
        """What comes of the changed images, [P,...] in their order. look: at grey levels float [N,C,H,W] of images of
        one shape, in these places.
        """
        groups = zip(self._levels(), self._places, strict=True)
        rows = torch.cat([look(levels, places) for levels, places in groups])
        order = torch.tensor([place for places in self._places for place in places], device=rows.device)
        return rows[torch.argsort(order)]

    def clip(self) -> None:
        """Back to what is allowed."""
        with torch.no_grad():
            for change in self.changes:
                change.clamp_(-self.eps, self.eps)

    def pixels(self) -> list[NDArray[np.uint8]]:
        """The changed images, uint8 [H,W,C] in their order."""
        found: dict[int, NDArray[np.uint8]] = {}
        for places, levels in zip(self._places, self._levels(), strict=True):
            whole = levels.detach().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            found |= dict(zip(places, whole, strict=True))
        return [found[place] for place in range(len(found))]

    def _levels(self) -> list[Tensor]:
        """The changed images in whole grey levels, [N,C,H,W]; rounding passes gradients straight through."""
        levels = [(base + change).clamp(0, 255) for base, change in zip(self._bases, self.changes, strict=True)]
        return [exact + (exact.round() - exact).detach() for exact in levels]


def _stacked(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
