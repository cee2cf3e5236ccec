"""Flips and translations, drawn from a generator: the only randomness over pixels in training."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from dpclean.train.recipes import Recipe


def first_flips(count: int, generator: Generator) -> Tensor:
    """Which images an alternating recipe mirrors in its first epoch, bool [N]."""
    return torch.rand(count, generator=generator) < 0.5


def flips(recipe: Recipe, first: Tensor, epoch: int, generator: Generator) -> Tensor:
    """Which images are mirrored in an epoch, bool [N]."""
    if recipe.flip == "alternate":  # Jordan 2024, section 3.6
        return first ^ bool(epoch % 2)
    if recipe.flip == "random":
        return torch.rand(len(first), generator=generator) < 0.5
    return torch.zeros_like(first)


def shifts(translate: int, count: int, generator: Generator) -> Tensor:
    """How far each image's window begins below and right of its furthest place, int64 [2,B], from 0 to 2 translate."""
    return torch.randint(2 * translate + 1, (2, count), generator=generator)


def augmented(images: Tensor, flip: Tensor, translate: int, shift: Tensor) -> Tensor:
    """Images [B,3,S,S], moved by what `shifts` drew and mirrored where flip, bool [B], in channels-last order."""
    if translate:
        images = _translated(images, translate, shift)
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images).contiguous(memory_format=torch.channels_last)


def _translated(images: Tensor, translate: int, shift: Tensor) -> Tensor:
    size = images.shape[2]
    padded = functional.pad(images, (translate,) * 4, mode="reflect")
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [B,3,2*translate+1,2*translate+1,S,S], a view
    return windows[torch.arange(len(images), device=images.device), :, shift[0], shift[1]]
