"""Noise and denoiser, the defence of this house."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.sight import Sight, ThroughDenoiser
from dpclean.audit.defences.defence import Check, Defence, Pixels, Setting
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser


class Sanitized(Defence):
    """What `dpclean sanitize` does."""

    name = "sanitized"
    paper = "Diffusion Denoising as a Certified Defense against Clean-label Poisoning, 2024, arXiv 2403.11981"
    about = "noise of this size, taken away by a diffusion model, as 'dpclean sanitize' does"
    changes = True

    def __init__(self, sigma: float, setting: Setting) -> None:
        self.sigma: float = sigma
        self.source, self.method = setting.denoiser, setting.method
        self._setting = setting

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(sigma, setting) for sigma in setting.sigmas]

    @cached_property
    def denoiser(self) -> Denoiser:
        return Denoiser(find_denoiser(self.source), self.sigma, method=self.method, device=self._setting.device)

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        pairs = list(zip(indices, images, strict=True))
        found = self.denoiser.denoise(pairs, key=self._setting.key, run=run, on_batch=lambda _: check())
        by_index = {result.index: result.pixels for result in found}
        return [by_index[index] for index in indices]

    def seen_through(self, key: bytes) -> Sight:
        return ThroughDenoiser(self.denoiser, key)
