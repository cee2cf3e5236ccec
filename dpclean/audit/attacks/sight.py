"""How an attacker sees what the victim gets: the images as they are, or through a defence that he knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.data.dataset import Images
from dpclean.denoise.denoiser import DTYPES, Denoiser
from dpclean.denoise.differentiable import DifferentiableDenoiser


class Sight:
    """Of one who knows of no defence."""

    def images(self, images: Images, check: Callable[[], None]) -> Sequence[NDArray[np.uint8]]:
        """All images [H,W,C] as the victim may get them."""
        return images.pixels

    def levels(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        """Grey levels [N,C,H,W] as the victim may get them, for gradients; another chance at each look. places: of the
        images among the poisons.
        """
        return levels

    def look_anew(self, number: int) -> None:
        """What is seen from here on depends on this number, from 1, and on nothing that was seen before."""


class ThroughDenoiser(Sight):
    """Through noise of the very sigma and the very denoiser, of any method, with fresh noise under a key of his own."""

    def __init__(self, denoiser: Denoiser, key: bytes) -> None:
        self._denoiser, self._key, self._looks = denoiser, key, 0
        self._differentiable = differentiable(denoiser)

    def images(self, images: Images, check: Callable[[], None]) -> Sequence[NDArray[np.uint8]]:
        pairs = list(zip(images.indices.tolist(), images.pixels, strict=True))
        found = self._denoiser.denoise(pairs, key=self._key, on_batch=lambda _: check())
        by_index = {one.index: one.pixels for one in found}
        return [by_index[index] for index, _ in pairs]

    def levels(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        self._looks += 1  # a run of its own for each: run 0 is that of all images
        cleaned = self._differentiable(levels / 255, key=self._key, run=self._looks, indices=list(places))
        return cleaned * 255

    def look_anew(self, number: int) -> None:
        self._looks = (number - 1) * LOOKS % (1 << 32)


LOOKS = 1 << 12  # at most, of one number


def differentiable(denoiser: Denoiser) -> DifferentiableDenoiser:
    """As who knows it follows gradients through it: the network computes in bfloat16 where the denoiser does, as the
    victim's images go through it so, else in float32: gradients in float16 would be 0 where they are small.
    """
    kind = DTYPES[denoiser.dtype]
    return DifferentiableDenoiser(denoiser, network_dtype=kind if kind == torch.bfloat16 else torch.float32)
