"""From decoded images of any size to the one tensor that training takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.errors import InputError

BATCH_VALUES = 1 << 24  # pixel values that are resized together, before or afterwards
LONG, MIDDLE = 16, 3  # times the shorter side: of what is longer than that, so much of the middle is looked at


def prepare(pixels: Sequence[NDArray[np.uint8]], size: int | None) -> Tensor:
    """uint8 [N,S,S,3] from images [H,W,C]; grey is replicated. What comes out for an image depends on it alone.

    size: the shorter side is resized to S (bilinear, antialiased), then the centre is cropped; an image that is
    S x S already stays as it is; of a very long one the middle is resized, or its memory would have no bound. None:
    the images must be squares of one size. Raises InputError.
    """
    if size is None:
        size = common_size(pixels)
    prepared = torch.empty(len(pixels), size, size, 3, dtype=torch.uint8)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(pixels):
        by_shape.setdefault(image.shape, []).append(place)
    for shape, places in by_shape.items():
        sides = _middle(*shape[:2])
        brought = size * size * shape[2] * (max(sides) / min(sides))
        count = max(1, int(BATCH_VALUES // max(math.prod(shape), brought)))
        for start in range(0, len(places), count):
            batch = places[start : start + count]
            prepared[batch] = _resized(torch.from_numpy(np.stack([pixels[place] for place in batch])), size)
    return prepared


def common_size(pixels: Sequence[NDArray[np.uint8]]) -> int:
    """The edge of squares of one size. Raises InputError."""
    sizes = sorted({image.shape[:2] for image in pixels})
    if len(sizes) == 1 and sizes[0][0] == sizes[0][1]:
        return int(sizes[0][0])
    shown = ", ".join(f"{width} x {height}" for height, width in sizes[:3])
    raise InputError(
        f"the images are not squares of one size: {shown}{' ...' if len(sizes) > 3 else ''}",
        "give the recipe a size to bring them to, as in --recipe tiny@32",
    )


def _resized(images: Tensor, size: int) -> Tensor:
    """uint8 [N,S,S,3] from uint8 [N,H,W,C]."""
    if images.shape[1:3] != (size, size):
        planes = resized(images.permute(0, 3, 1, 2).float(), size)
        images = planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return images.expand(-1, -1, -1, 3)


def resized(planes: Tensor, size: int) -> Tensor:
    """float [N,C,S,S] from [N,C,H,W]: the shorter side brought to S, the centre cropped; gradients pass."""
    height, width = _middle(*planes.shape[2:])
    top, left = (planes.shape[2] - height) // 2, (planes.shape[3] - width) // 2
    planes = planes[:, :, top : top + height, left : left + width]
    short = min(height, width)
    shape = (max(size, round(height * size / short)), max(size, round(width * size / short)))
    planes = functional.interpolate(planes, shape, mode="bilinear", antialias=True)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return planes[:, :, top : top + size, left : left + size]


def _middle(height: int, width: int) -> tuple[int, int]:
    """How much of each side is resized: all, but of a very long one as much as the centre of the result is made of."""
    short = min(height, width)
    if max(height, width) <= LONG * short:
        return height, width
    return min(height, MIDDLE * short), min(width, MIDDLE * short)
