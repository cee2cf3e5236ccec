"""The sanitizer as a torchvision transform, for pipelines that transform images on the way to training."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.differentiable import DifferentiableDenoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import InputError
from dpclean.noise.keys import draw_key
from dpclean.noise.table import check_sigma

CHANNELS = {"RGB": 3, "L": 1}  # of the modes of PIL


def _is_plain(given: Any) -> bool:
    return isinstance(given, Tensor) and not isinstance(given, tv_tensors.TVTensor)


class Sanitizer(v2.Transform):  # type: ignore[misc]
    """Noise and denoise uint8 images: [..., C, H, W] in, the same shape, type and device out; C is 1 or 3.

    A torchvision v2 transform: it takes tensors, tv_tensors (Image, Video) and PIL images (RGB and L), alone or in any
    structure such as (image, label), and leaves the rest of it alone. Batches of any size do, also empty ones.

    sigma: noise on the [0, 1] pixel scale. denoiser: `natural`, a diffusers folder, or a hub id. method: `one-step`, or
    `ddim:STEPS` or `sde:STEPS` for several evaluations of the network. device: where it runs. It works in data loader
    workers. Every call draws fresh noise under a key that this process took from the operating system, again after a
    fork.

    differentiable: takes and gives float tensors on [0, 1] and lets gradients through, for attackers that know the
    defence (Athalye et al. 2018, "Obfuscated Gradients"; average several calls): through the denoiser, in float32, with
    the activations of one evaluation in memory at a time, and straight through the rounding to grey levels.

    Fresh noise each epoch is not what `certify` certifies: a training that sees E noised copies of an image has
    seen E draws, and every radius shrinks by sqrt(E). For certificates, sanitize the data set once.
    Raises the errors of `dpclean.sanitize`.
    """

    _transformed_types = (_is_plain, tv_tensors.Image, tv_tensors.Video, PIL.Image.Image)

    def __init__(
        self,
        sigma: float,
        denoiser: str = "natural",
        *,
        method: str = "one-step",
        device: str = "auto",
        dtype: str = "auto",
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        self.sigma = check_sigma(sigma)
        dtype = "fp32" if differentiable else dtype
        self._denoiser = Denoiser(find_denoiser(denoiser), self.sigma, method=method, device=device, dtype=dtype)
        self._differentiable = DifferentiableDenoiser(self._denoiser) if differentiable else None
        self._renew()

    def _renew(self) -> None:
        self._owner, self._key, self._indices = os.getpid(), draw_key(), itertools.count()

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process must never share a key with this one
        return {name: value for name, value in self.__dict__.items() if name not in ("_owner", "_key", "_indices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image or batch of a sample, as torchvision hands it over."""
        if not isinstance(inpt, PIL.Image.Image):
            found = self._sanitized(inpt.as_subclass(Tensor))
            return found if _is_plain(inpt) else tv_tensors.wrap(found, like=inpt)
        if inpt.mode not in CHANNELS:
            raise InputError(f"the image's mode is {inpt.mode}, expected RGB or L", "give image.convert('RGB')")
        pixels = torch.from_numpy(np.array(inpt)).view(inpt.height, inpt.width, CHANNELS[inpt.mode])
        found = self._sanitized(pixels.permute(2, 0, 1)).permute(1, 2, 0)
        return PIL.Image.fromarray(found.squeeze(2).numpy() if inpt.mode == "L" else found.contiguous().numpy())

    _transform = transform  # its name in torchvision before 0.21

    def _sanitized(self, images: Tensor) -> Tensor:
        if self._differentiable is not None:
            return self._with_gradient(self._differentiable, images)
        if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {list(images.shape)}, expected uint8 [..., C, H, W], C 1 or 3",
                "convert them with torchvision.transforms.v2.PILToTensor, before any scaling to float",
            )
        if images.numel() == 0:
            return images.clone()
        batch = images.reshape(-1, *images.shape[-3:]).permute(0, 2, 3, 1).contiguous()
        pairs = list(zip(self._fresh(len(batch)), batch, strict=True))
        done = sorted(self._denoiser.denoise(pairs, key=self._key), key=lambda result: result.index)
        pixels = torch.from_numpy(np.stack([result.pixels for result in done])).permute(0, 3, 1, 2)
        return pixels.reshape(images.shape).contiguous().to(images.device)

    def _with_gradient(self, denoiser: DifferentiableDenoiser, images: Tensor) -> Tensor:
        if not images.is_floating_point() or images.ndim < 3 or images.shape[-3] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {list(images.shape)}, expected float [..., C, H, W] on [0, 1], C 1 or 3",
                "convert them to that, or take a Sanitizer that is not differentiable for uint8 images",
            )
        if images.numel() == 0:
            return images.clone()
        batch = images.reshape(-1, *images.shape[-3:])
        indices = self._fresh(len(batch))
        found = denoiser(batch, key=self._key, run=0, indices=indices)
        return found.reshape(images.shape).to(images.device, images.dtype)

    def _fresh(self, count: int) -> list[int]:
        """Indices of noise that this process has not drawn yet, after its key."""
        if os.getpid() != self._owner:
            self._renew()
        return list(itertools.islice(self._indices, count))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}, denoiser={self._denoiser.id!r}, method={self._denoiser.method!r}"
