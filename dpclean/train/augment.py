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


def augmented(images: Tensor, flip: Tensor, shift: int, generator: Generator) -> Tensor:
    """Images [B,3,S,S], mirrored where flip, bool [B], and moved by up to shift pixels, in channels-last order."""
    if shift:
        images = _translated(images, shift, generator)
    flip = flip.to(images.device).view(-1, 1, 1, 1)
    return torch.where(flip, images.flip(3), images).contiguous(memory_format=torch.channels_last)


def _translated(images: Tensor, shift: int, generator: Generator) -> Tensor:
    size = images.shape[2]
    padded = functional.pad(images, (shift,) * 4, mode="reflect")
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [B,3,2*shift+1,2*shift+1,S,S], a view
    top, left = torch.randint(2 * shift + 1, (2, len(images)), generator=generator).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, top, left]
