"""The noise of `sanitize` and nothing after it: what the denoiser is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Check, Defence, Pixels, Setting
from dpclean.noise import add_noise


class Noised(Defence):
    name = "noised"
    paper = "Cohen et al. 2019, 'Certified Adversarial Robustness via Randomized Smoothing'"
    about = "noise of this size, clipped to what an image can hold"
    changes = True

    def __init__(self, sigma: float, key: bytes) -> None:
        self.sigma: float = sigma
        self._key = key

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(sigma, setting.key) for sigma in setting.sigmas]

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        found = []
        for index, image in zip(indices, images, strict=True):
            check()
            noised = add_noise(np.ascontiguousarray(image)[None], self.sigma, key=self._key, run=run, indices=[index])
            found.append(noised[0].clip(0, 255).astype(np.uint8))
        return found
