"""One batch to be noised: its arguments checked, and the compiled kernel called on it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpclean import _kernels
from dpclean.errors import UsageError
from dpclean.kernels import cuda_built, cuda_errors, default_threads, kernel_name
from dpclean.noise.keys import check_key
from dpclean.noise.table import Table, check_sigma, table

if TYPE_CHECKING:
    import torch

MAX_SAMPLES = 2**31  # of one image: 31 bits address a sample's refinement


@dataclass(frozen=True)
class Draw:
    """Which noise: the address of every random word of a batch, and the distribution."""

    sigma: float
    key: bytes
    run: int
    indices: NDArray[np.int64]
    test: bool

    @property
    def table(self) -> Table | None:
        """None at sigma 0, which uses no random words."""
        return table(self.sigma) if self.sigma else None

    @classmethod
    def checked(cls, count: int, sigma: float, key: bytes, run: int, indices: ArrayLike, test: bool) -> Draw:
        """Validates everything that noise.md calls an error; `count` is the number of images."""
        if not 0 <= run < 2**32:
            raise UsageError(f"run must be from 0 to 2^32 - 1, got {run}", "choose a run in that range")
        numbers = np.asarray(indices.cpu() if hasattr(indices, "cpu") else indices)
        if numbers.size == 0:
            numbers = numbers.astype(np.int64)
        if not np.issubdtype(numbers.dtype, np.integer):
            raise UsageError(f"indices must be integers, got {numbers.dtype}", "give one int64 index an image")
        if numbers.shape != (count,):
            raise UsageError(
                f"indices must have shape [{count}], got {list(numbers.shape)}", "give one int64 index an image"
            )
        if count and (int(numbers.min()) < 0 or int(numbers.max()) >= 2**63):
            raise UsageError("indices must be from 0 to 2^63 - 1", "give one int64 index an image")
        return cls(
            check_sigma(sigma), check_key(key), int(run), np.ascontiguousarray(numbers, dtype=np.int64), bool(test)
        )


def check_images(shape: tuple[int, ...], dtype: object, is_uint8: bool) -> None:
    """UsageError unless uint8 [N, H, W, C] with fewer than 2^31 samples an image."""
    if not is_uint8 or len(shape) != 4:
        raise UsageError(f"images must be uint8 [N, H, W, C], got {dtype} {list(shape)}", "convert them first")
    if shape[1] * shape[2] * shape[3] >= MAX_SAMPLES:
        raise UsageError(f"an image has fewer than 2^31 samples, got {list(shape[1:])}", "cut the image into parts")


def noise_on_cpu(
    draw: Draw, images: int, shape: tuple[int, ...], out: int, *, type: str, planar: bool = False, a: float = 0.0
) -> None:
    """Writes x + Z at address `out`; `images` is the address of contiguous uint8 [N, H, W, C]."""
    chosen = draw.table
    columns = (chosen.entry.ctypes.data, chosen.low.ctypes.data) if chosen else (0, 0)
    job = _job(draw, columns, draw.indices.ctypes.data, images, shape, out, type, planar, a)
    _kernels.noise(kernel_name(), default_threads(), job)


def noise_on_cuda(
    draw: Draw, images: torch.Tensor, out: torch.Tensor, *, type: str, planar: bool = False, a: float = 0.0
) -> None:
    """The same on the current stream of the images' device."""
    import torch

    columns = tuple(t.data_ptr() for t in _table_on(draw.sigma, images.device)) if draw.table else (0, 0)
    # by way of page-locked memory: no wait for what the GPU still has to do
    indices = torch.from_numpy(draw.indices).pin_memory().to(images.device, non_blocking=True)
    shape = tuple(images.shape)
    job = _job(draw, columns, indices.data_ptr(), images.data_ptr(), shape, out.data_ptr(), type, planar, a)
    with torch.cuda.device(images.device), cuda_errors():
        _kernels.noise_cuda(job, images.device.index, torch.cuda.current_stream().cuda_stream)


def _job(
    draw: Draw,
    columns: tuple[int, ...],
    indices: int,
    images: int,
    shape: tuple[int, ...],
    out: int,
    type: str,
    planar: bool,
    a: float,
) -> _kernels.NoiseJob:
    count, height, width, channels = shape
    chosen = draw.table
    return _kernels.NoiseJob(
        key=draw.key, run=draw.run, test=draw.test,
        entry=columns[0], low=columns[1], m=chosen.m if chosen else 0, k=chosen.k if chosen else 0,
        images=images, indices=indices, count=count, samples=height * width * channels, channels=max(1, channels),
        planar=planar, type=type, a=a, out=out,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _table_on(sigma: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    chosen = table(sigma)
    return (
        torch.tensor(chosen.entry.view(np.int32), device=device),
        torch.tensor(chosen.low.view(np.int64), device=device),
    )


def runs_on_cuda(images: torch.Tensor) -> bool:
    """Whether the CUDA kernel takes this tensor; without one the same bits come from the CPU, and this says so once."""
    if not images.is_cuda:
        return False
    if not cuda_built():
        _say_once()
    return cuda_built()


@cache
def _say_once() -> None:
    warnings.warn(
        "dpclean was built without CUDA: noise is drawn on the CPU and copied (the same bits, slower)",
        RuntimeWarning,
        stacklevel=4,
    )
