"""Noise on the integer scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpclean.errors import UsageError
from dpclean.noise.batch import Draw, check_images, noise_on_cpu, noise_on_cuda, runs_on_cuda

if TYPE_CHECKING:
    import torch

Images = TypeVar("Images", NDArray[Any], "torch.Tensor")


def add_noise(images: Images, sigma: float, *, key: bytes, run: int, indices: ArrayLike, test: bool = False) -> Images:
    """Grey levels x + Z, int16 [N, H, W, C], in the container and on the device of `images`; nothing is clamped.

    images: uint8 [N, H, W, C], NumPy or torch (CPU, CUDA). sigma: noise level on the [0, 1] scale, 0 to SIGMA_MAX.
    key: 32 secret bytes. run: below 2^32. indices: int64 [N] from 0, the image's number. test: a stream of its own for
    test images. The same (key, run, index, test, sigma) gives the same Z on every kernel; use each for one draw only.
    UsageError where an argument is out of its range.
    """
    if isinstance(images, np.ndarray):
        return _add_to_array(images, sigma, key, run, indices, test)
    if type(images).__module__.partition(".")[0] != "torch":
        raise UsageError(
            f"images must be a NumPy array or a torch tensor, got {type(images).__name__}", "convert them first"
        )
    return _add_to_tensor(images, sigma, key, run, indices, test)


def _add_to_array(
    images: NDArray[Any], sigma: float, key: bytes, run: int, indices: ArrayLike, test: bool
) -> NDArray[np.int16]:
    check_images(images.shape, images.dtype, images.dtype == np.uint8)
    draw = Draw.checked(images.shape[0], sigma, key, run, indices, test)
    images = np.ascontiguousarray(images)
    out = np.empty(images.shape, dtype=np.int16)
    noise_on_cpu(draw, images.ctypes.data, images.shape, out.ctypes.data, type="i16")
    return out


def _add_to_tensor(
    images: torch.Tensor, sigma: float, key: bytes, run: int, indices: ArrayLike, test: bool
) -> torch.Tensor:
    import torch

    if not runs_on_cuda(images):
        array = _add_to_array(images.detach().cpu().numpy(), sigma, key, run, indices, test)
        return torch.from_numpy(array).to(images.device)
    check_images(tuple(images.shape), images.dtype, images.dtype == torch.uint8)
    draw = Draw.checked(images.shape[0], sigma, key, run, indices, test)
    images = images.contiguous()
    out = torch.empty(images.shape, dtype=torch.int16, device=images.device)
    noise_on_cuda(draw, images, out, type="i16")
    return out
