"""Noise and denoiser, the defence of this house."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Defence, Images
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser


class Sanitized(Defence):
    """What `dpclean sanitize` does. key: of the noise, which no attacker is given."""

    name = "sanitized"
    paper = "Diffusion Denoising as a Certified Defense against Clean-label Poisoning, 2024, arXiv 2403.11981"
    about = "noise of this size, taken away by a diffusion model, as 'dpclean sanitize' does"

    def __init__(self, sigma: float, denoiser: str, *, method: str, device: str, key: bytes) -> None:
        self.sigma = sigma
        self._source, self._method, self._device, self._key = denoiser, method, device, key

    @cached_property
    def denoiser(self) -> Denoiser:
        return Denoiser(find_denoiser(self._source), self.sigma or 0.0, method=self._method, device=self._device)

    def apply(
        self, images: Images, *, indices: Sequence[int], run: int, on_batch: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        pairs = list(zip(indices, images, strict=True))
        found = self.denoiser.denoise(pairs, key=self._key, run=run, on_batch=lambda _: on_batch())
        by_index = {result.index: result.pixels for result in found}
        return [by_index[index] for index in indices]
