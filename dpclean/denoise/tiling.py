"""Fixed shapes for images of any size: mirrored padding, overlapping tiles, a smooth blend."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

EDGES = (32, 64, 96, 128, 192, 256, 320, 384, 448, 512)
LEAST_TILE, LEAST_STRIDE = 128, 8


@dataclass(frozen=True)
class Shapes:
    """The shapes of a job: fixed before the first image is seen.

    batch_pixels: pixels in one batch, so that a batch of [h, w] tiles holds batch_pixels // (h w), at least one.
    tile: the longest edge that is taken whole. stride: what edges of tiles are multiples of; it divides `tile`.
    """

    batch_pixels: int
    tile: int = LEAST_TILE
    stride: int = LEAST_STRIDE

    @property
    def overlap(self) -> int:
        """The least number of pixels that neighbouring tiles share."""
        return self.tile // 16

    def count(self, size: int) -> int:
        """How many tiles an image edge takes."""
        return 1 if size <= self.tile else -(-(size - self.overlap) // (self.tile - self.overlap))

    def edge(self, size: int) -> int:
        """The edge of the tiles for an image edge: of one tile the next of EDGES, of more the least that covers it."""
        count = self.count(size)
        if count == 1:
            return EDGES[bisect_left(EDGES, size)]
        return -(-(size + (count - 1) * self.overlap) // (count * self.stride)) * self.stride

    def batch(self, height: int, width: int) -> int:
        """How many tiles [height, width] one batch holds."""
        return max(1, self.batch_pixels // (height * width))

    def starts(self, size: int) -> list[int]:
        """Where the tiles of an edge begin: one tile, or evenly spread ones that share at least `overlap`."""
        last = self.count(size) - 1
        return [round(i * (size - self.edge(size)) / last) for i in range(last + 1)] if last > 0 else [0]

    def ramp(self, size: int) -> Tensor:
        """float32 [edge]: a tile's weight along one edge, rising over the overlap at both ends."""
        if self.count(size) == 1:
            return torch.ones(self.edge(size))
        rise = (torch.arange(self.edge(size), dtype=torch.float32) + 0.5) / self.overlap
        return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)


def tile_for(sample_size: int) -> int:
    """The tile of a network that was fitted on images of this edge: not much larger, and of EDGES.

    A network's normalisation sees all of its input, so it does worse on what is much larger than what it was fitted
    on: the bundled one loses 0.1 dB or more where tiles of 512 take the place of 128. Smaller ones leave flat areas
    with clouds of colour, since each tile has its own error of the mean.
    """
    return EDGES[min(bisect_left(EDGES, max(sample_size, LEAST_TILE)), len(EDGES) - 1)]


@lru_cache(maxsize=256)
def _mirror(size: int, padded: int, device: torch.device) -> Tensor:
    """int64 [padded]: positions of an edge mirrored as often as the padding needs, without repeating the border."""
    period = max(1, 2 * (size - 1))
    position = torch.arange(padded) % period
    mirrored = torch.minimum(position, period - position) if size > 1 else torch.zeros(padded, dtype=torch.int64)
    return mirrored.to(device)


def mirror_pad(image: Tensor, height: int, width: int) -> Tensor:
    """[..., H, W] -> [..., height, width]: mirrored downwards and to the right, repeatedly where it is small."""
    if image.shape[-1] != width:
        image = image.index_select(-1, _mirror(image.shape[-1], width, image.device))
    if image.shape[-2] != height:
        image = image.index_select(-2, _mirror(image.shape[-2], height, image.device))
    return image


@lru_cache(maxsize=256)
def _on(shapes: Shapes, size: int, device: torch.device) -> Tensor:
    return shapes.ramp(size).to(device)


class Blend:
    """The predictions of one image's tiles, put together: each position a weighted mean of the tiles over it."""

    def __init__(self, shapes: Shapes, height: int, width: int, device: torch.device) -> None:
        self.size = (height, width)
        self._ramps = tuple(_on(shapes, size, device) for size in self.size)
        self._starts = tuple(shapes.starts(size) for size in self.size)
        self._sum: Tensor | None = None
        self._todo = len(self._starts[0]) * len(self._starts[1])
        self.share = height * width / self._todo  # of the image's pixels, a tile's

    def positions(self) -> list[tuple[int, int]]:
        """(top, left) of every tile, row by row."""
        return [(top, left) for top in self._starts[0] for left in self._starts[1]]

    def add(self, tile: Tensor, top: int, left: int) -> Tensor | None:
        """Add a prediction [C, h, w]; the whole image's float32 [C, H, W] after the last one, else None."""
        height, width = self.size
        if self._sum is None:
            self._sum = torch.zeros(tile.shape[0], height, width, device=tile.device)
        rows, columns = min(tile.shape[1], height - top), min(tile.shape[2], width - left)
        weight = self._ramps[0][:rows, None] * self._ramps[1][:columns]
        self._sum[:, top : top + rows, left : left + columns] += tile[:, :rows, :columns].float() * weight
        self._todo -= 1
        return self._sum.div_(self._totals()) if self._todo == 0 else None

    def _totals(self) -> Tensor:
        """[H, W]: the weights that met at each position; a product of one sum an edge."""
        edges = []
        for size, ramp, starts in zip(self.size, self._ramps, self._starts, strict=True):
            total = torch.zeros(size, device=ramp.device)
            for start in starts:
                length = min(len(ramp), size - start)
                total[start : start + length] += ramp[:length]
            edges.append(total)
        return edges[0][:, None] * edges[1]
