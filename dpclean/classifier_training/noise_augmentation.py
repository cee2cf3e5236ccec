"""Training images noised and denoised anew for every epoch: for a model that is to predict on such images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpclean.data.dataset import Images
from dpclean.denoise.denoiser import Denoised, Denoiser
from dpclean.denoise.loading import DenoiserFiles
from dpclean.noise.keys import key_from_seed
from dpclean.train.images import prepare

MID_GREY = 128  # what an image becomes whose prediction is not finite, as at test time
BLOCK = 1024  # images that are brought to size together


class NoiseAugmentation:
    """A denoiser at one noise level, and the key of its noise, which the seed of the training gives.

    The noise of an image depends on seed, number of the epoch and the image's place in the listing, so it is another
    one in every epoch and the same in every training. Raises UsageError and SetupError as `Denoiser` does.
    """

    def __init__(
        self, files: DenoiserFiles, sigma: float, method: str, *, seed: int, device: str, batch_pixels: int | None
    ) -> None:
        self._denoiser = Denoiser(files, sigma, device=device, method=method, batch_pixels=batch_pixels)
        self._key = key_from_seed(seed, "train")

    @property
    def engine(self) -> dict[str, Any]:
        """What the bytes depend on beside images, noise and denoiser."""
        return self._denoiser.engine

    def images(
        self,
        images: Images,
        size: int | None,
        *,
        epoch: int,
        test: bool = False,
        on_batch: Callable[[float], None] = lambda pixels: None,
    ) -> Tensor:
        """uint8 [N,S,S,3]: noised and denoised in their own size, then prepared as all images are.

        epoch: from 1; 0 for test images. on_batch: as `Denoiser.denoise` calls it; what it raises ends the work.
        """
        places = {index: place for place, index in enumerate(images.indices.tolist())}
        pairs = zip(images.indices.tolist(), images.pixels, strict=True)
        found, waiting = list[Tensor](), dict[int, np.ndarray]()
        order = list[int]()

        def bring_to_size() -> None:
            order.extend(waiting)
            found.append(prepare([*waiting.values()], size))
            waiting.clear()

        for result in self._denoiser.denoise(pairs, key=self._key, run=epoch, test=test, on_batch=on_batch):
            waiting[places[result.index]] = _usable(result)
            if len(waiting) == BLOCK:
                bring_to_size()
        if waiting:
            bring_to_size()
        whole = torch.cat(found)
        return torch.empty_like(whole).index_copy_(0, torch.tensor(order), whole)


def _usable(result: Denoised) -> np.ndarray:
    return result.pixels if result.finite else np.full_like(result.pixels, MID_GREY)
