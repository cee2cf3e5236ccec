"""Fixed shapes for images of any size: mirrored padding, overlapping tiles, a smooth blend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dpclean.denoise.precision import at_least_float32

LEAST_EDGE = 24  # what is smaller is padded to it: normalisation needs some pixels
LEAST_TILE, LARGEST_TILE = 128, 512
OVERLAP = 8  # with less, steps are seen where tiles meet

T = TypeVar("T")
Edges = tuple[int, int]  # height and width of a batch


@dataclass(frozen=True)
class Shapes:
    """The shapes of a job: what sizes of images become, fixed before the first image is seen.

    batch_pixels: pixels in a full batch, so that one of [h, w] tiles holds batch_pixels // (h w), at least one.
    tile: the longest edge that is taken whole. stride: what edges of tiles are multiples of; it divides `tile`.
    overlap: the least number of pixels that neighbouring tiles share.
    """

    batch_pixels: int
    tile: int = LEAST_TILE
    stride: int = 1
    overlap: int = OVERLAP

    def lengths(self, size: int) -> tuple[int, ...]:
        """The tiles along an image edge: as few as can be, as equal as can be, and no more than covers it."""
        size = max(size, LEAST_EDGE)
        count = 1 if size <= self.tile else -(-(size - self.overlap) // (self.tile - self.overlap))
        short, longer = divmod(-(-(size + (count - 1) * self.overlap) // self.stride), count)
        return tuple((short + (place < longer)) * self.stride for place in range(count))

    def starts(self, size: int) -> list[int]:
        """Where the tiles of an edge begin; what they share beyond the overlap is spread over them."""
        lengths = self.lengths(size)
        last = max(1, len(lengths) - 1)
        spare = sum(lengths) - last * self.overlap - size if len(lengths) > 1 else 0
        return [sum(lengths[:i]) - i * self.overlap - round(i * spare / last) for i in range(len(lengths))]

    def batch(self, height: int, width: int) -> int:
        """How many tiles [height, width] a full batch holds."""
        return max(1, self.batch_pixels // (height * width))

    def ramp(self, length: int) -> Tensor:
        """float32 [length]: a tile's weight along one edge, rising over the overlap at both ends."""
        rise = (torch.arange(length, dtype=torch.float32) + 0.5) / self.overlap
        return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)


def tile_for(sample_size: int, stride: int) -> int:
    """The tile of a network that was fitted on images of this edge: not much larger, and a multiple of the stride.

    A network's normalisation sees all of its input, so it does worse on what is much larger than what it was fitted
    on: the bundled one loses 0.1 dB or more where tiles of 512 take the place of 128. Smaller ones leave flat areas
    with clouds of colour, since each tile has its own error of the mean.
    """
    return -(-min(max(sample_size, LEAST_TILE), LARGEST_TILE) // stride) * stride


def merged(waiting: dict[Edges, list[T]], cost: int) -> Iterator[tuple[Edges, list[T]]]:
    """What waits, by the shape that it is to take: few of one shape are padded to another that others take anyway.

    cost: the pixels of padding that a batch of a shape of its own is worth. Depends on shapes and numbers alone.
    """
    left = {shape: list(items) for shape, items in sorted(waiting.items(), key=lambda of: (math.prod(of[0]), of[0]))}
    for shape in list(left):
        items = left.pop(shape)
        if not items:
            continue
        larger = [other for other in left if left[other] and other[0] >= shape[0] and other[1] >= shape[1]]
        best = min(larger, key=math.prod, default=None)
        if best is None or len(items) * (math.prod(best) - math.prod(shape)) > cost:
            yield shape, items
        else:
            left[best] += items


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept may be needed for a gradient
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
@torch.inference_mode(False)
def _on(shapes: Shapes, length: int, device: torch.device) -> Tensor:
    return shapes.ramp(length).to(device)


class Place(NamedTuple):
    """Where a tile lies in its image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Blend:
    """The predictions of one image's tiles, put together: each position a weighted mean of the tiles over it."""

    def __init__(self, shapes: Shapes, height: int, width: int, device: torch.device) -> None:
        self.size = (height, width)
        self._shapes, self._device = shapes, device
        self._edges = [list(zip(shapes.starts(size), shapes.lengths(size), strict=True)) for size in self.size]
        self._sum: Tensor | None = None
        self._todo = len(self._edges[0]) * len(self._edges[1])
        self.share = height * width / self._todo  # of the image's pixels, a tile's

    def _ramp(self, length: int) -> Tensor:
        return _on(self._shapes, length, self._device)

    def places(self) -> list[Place]:
        """Every tile, row by row."""
        rows, columns = self._edges
        return [Place(top, left, height, width) for top, height in rows for left, width in columns]

    def add(self, tile: Tensor, place: Place) -> Tensor | None:
        """Add a prediction [C, h, w]; the whole image's float32 [C, H, W] after the last one, else None."""
        height, width = self.size
        if self._sum is None:
            self._sum = at_least_float32(tile.new_zeros(tile.shape[0], height, width))
        rows, columns = min(place.height, height - place.top), min(place.width, width - place.left)
        weight = self._ramp(place.height)[:rows, None] * self._ramp(place.width)[:columns]
        window = self._sum[:, place.top : place.top + rows, place.left : place.left + columns]
        window += at_least_float32(tile[:, :rows, :columns]) * weight
        self._todo -= 1
        return self._sum.div_(self._totals()) if self._todo == 0 else None

    def _totals(self) -> Tensor:
        """[H, W]: the weights that met at each position; a product of one sum an edge."""
        totals = []
        for size, edge in zip(self.size, self._edges, strict=True):
            total = torch.zeros(size, device=self._device)
            for start, length in edge:
                total[start : start + length] += self._ramp(length)[: size - start]
            totals.append(total)
        return totals[0][:, None] * totals[1]
