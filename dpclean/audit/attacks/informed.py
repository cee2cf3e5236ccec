"""The attacker who knows the defence: he sees through noise and denoiser, and guesses all but the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.victims.heads import HEADS
from dpclean.data.dataset import Images
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.differentiable import DifferentiableDenoiser
from dpclean.train.extractor import Extractor

PULL = 0.1  # weight of the cross-entropy towards the target's class beside an attack's own loss, which begins near 1


class Informed(Surrogate):
    """The extractor behind noise of the very sigma and the very denoiser, with fresh noise at each look.

    Rows are standardised as the victim's head does it, by a pool of his own: all images with noise under his own key.
    A head that he trains on that pool draws the poisons to the target's class, so that they lie on the far side of what
    the victim would learn without them. Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security".
    """

    most_steps = 150

    def __init__(
        self, extractor: Extractor, denoiser: Denoiser, images: Images, key: bytes, check: Callable[[], None]
    ) -> None:
        super().__init__(extractor)
        self._key, self._looks = key, 0
        pairs = list(zip(images.indices.tolist(), images.pixels, strict=True))
        by_index = {one.index: one.pixels for one in denoiser.denoise(pairs, key=key, on_batch=lambda _: check())}
        rows = extractor.features([by_index[index] for index, _ in pairs])
        head = HEADS["logistic"].fit(rows, images.labels, len(images.classes))
        self._centre, self._scale, weights = (
            torch.from_numpy(part).float().to(self.device) for part in (head.centre, head.scale, head.weights)
        )
        self._weights, self._bias = weights[:-1], weights[-1]
        self._denoiser = DifferentiableDenoiser(denoiser)

    def rows(self, levels: Tensor, places: Sequence[int]) -> Tensor:
        self._looks += 1  # a run of its own for each: run 0 is the pool's
        cleaned = self._denoiser(levels / 255, key=self._key, run=self._looks, indices=list(places))
        return self._standardised(super().rows(cleaned * 255, places))

    def row_of(self, image: NDArray[np.uint8]) -> Tensor:
        return self._standardised(super().row_of(image))

    def pull(self, rows: Tensor, label: int) -> Tensor:
        wanted = torch.full((len(rows),), label, device=rows.device)
        return PULL * functional.cross_entropy(rows @ self._weights + self._bias, wanted)

    def _standardised(self, rows: Tensor) -> Tensor:
        return (rows - self._centre) / self._scale
