"""Images that an attacker changes, each pixel value by a bounded number of grey levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.errors import Diverged


class Perturbation:
    """Changes of images uint8 [H,W,C] of any sizes, none of a pixel value by more than eps grey levels."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], eps: int, device: torch.device) -> None:
        shapes = sorted({image.shape for image in images})
        self.eps = eps
        self._places = [[place for place, image in enumerate(images) if image.shape == shape] for shape in shapes]
        self._bases = [stacked([images[place] for place in places]).to(device) for places in self._places]
        self.changes = [torch.zeros_like(base, requires_grad=True) for base in self._bases]

    def seen_by(self, look: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
        """What comes of the changed images, [P,...] in their order. look: at grey levels float [N,C,H,W] of images of
        one shape, in these places. Raises Diverged where that is not finite.
        """
        groups = zip(self._levels(), self._places, strict=True)
        rows = torch.cat([look(levels, places) for levels, places in groups])
        order = torch.tensor([place for places in self._places for place in places], device=rows.device)
        return finite(rows)[torch.argsort(order)]

    def scatter(self, generator: torch.Generator) -> None:
        """Begin anywhere in what is allowed."""
        with torch.no_grad():
            for change in self.changes:
                change.copy_(self.eps * (2 * torch.rand(change.shape, generator=generator) - 1))

    def clip(self) -> None:
        """Back to what is allowed. Raises Diverged where changes are not finite."""
        for change in self.changes:
            _clip(change, self.eps)

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
        return [rounded(exact) for exact in levels]


class SharedChange:
    """One change of all images of a shape (H,W,C), of no pixel value by more than eps grey levels."""

    def __init__(self, shape: tuple[int, ...], eps: int, device: torch.device) -> None:
        height, width, channels = shape
        self.eps = eps
        self._change = torch.zeros(1, channels, height, width, device=device, requires_grad=True)
        self.changes = [self._change]

    def on(self, levels: Tensor) -> Tensor:
        """Grey levels [N,C,H,W], changed and whole; rounding passes gradients straight through."""
        return (levels + rounded(self._change)).clamp(0, 255)

    def clip(self) -> None:
        """Back to what is allowed. Raises Diverged where the change is not finite."""
        _clip(self._change, self.eps)

    def array(self) -> NDArray[np.int16]:
        """It, int16 [H,W,C]."""
        return self._change.detach()[0].round().to(torch.int16).permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def _clip(change: Tensor, eps: int) -> None:
    finite(change).clamp_(-eps, eps)


def finite(values: Tensor) -> Tensor:
    """The same. Raises Diverged: an attack that failed would count as one that was withstood."""
    if not values.isfinite().all():
        raise Diverged("what an attack computes is not finite any more", "give another --extractor")
    return values


def rounded(values: Tensor) -> Tensor:
    """To whole numbers; gradients pass straight through."""
    return values + (values.round() - values).detach()


def stacked(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Grey levels float [N,C,H,W] of images of one shape."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
