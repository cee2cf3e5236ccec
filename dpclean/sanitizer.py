"""The sanitizer as a torch module, for pipelines that transform images on the way to training."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import InputError
from dpclean.noise.keys import draw_key


class Sanitizer(nn.Module):
    """Noise and denoise uint8 images: [N, C, H, W] or [C, H, W] in, the same shape and device out; C is 1 or 3.

    sigma: noise on the [0, 1] pixel scale. denoiser: `natural`, a diffusers folder, or a hub id. device: where the
    network runs. It works as a torchvision v2 transform and in data loader workers. Every call draws fresh noise
    under a key that this process took from the operating system, again after a fork.

    Fresh noise each epoch is not what `certify` certifies: a training that sees E noised copies of an image has
    seen E draws, and every radius shrinks by sqrt(E). For certificates, sanitize the data set once.
    Raises the errors of `dpclean.sanitize`.
    """

    def __init__(self, sigma: float, denoiser: str = "natural", *, device: str = "auto", dtype: str = "auto") -> None:
        super().__init__()
        self.sigma = sigma
        self._settings: dict[str, Any] = {"device": device, "dtype": dtype}
        self._denoiser = Denoiser(find_denoiser(denoiser), sigma, **self._settings)
        self._renew()

    def _renew(self) -> None:
        self._owner, self._key, self._indices = os.getpid(), draw_key(), itertools.count()

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process must never share a key with this one
        return {name: value for name, value in self.__dict__.items() if name not in ("_owner", "_key", "_indices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, C, H, W] or [C, H, W], C 1 or 3",
                "convert them with torchvision.transforms.v2.PILToTensor, before any scaling to float",
            )
        if os.getpid() != self._owner:
            self._renew()
        batch = images if images.ndim == 4 else images[None]
        pairs = zip(self._indices, batch.permute(0, 2, 3, 1).contiguous(), strict=False)
        done = sorted(self._denoiser.denoise(_first(pairs, len(batch)), key=self._key), key=lambda r: r.index)
        pixels = torch.from_numpy(np.stack([r.pixels for r in done])).permute(0, 3, 1, 2).to(images.device)
        return pixels.contiguous() if images.ndim == 4 else pixels[0].contiguous()

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}, denoiser={self._denoiser.id!r}"


def _first(pairs: Any, count: int) -> Any:
    return list(itertools.islice(pairs, count))
