"""Devices: which one computes, whether it has bfloat16, and the memory of activations on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dpclean.errors import SetupError, UsageError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST = 1 << 30  # bytes


def choose_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises SetupError where it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known", "give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", "give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(f"device {name!r} is not there", "run 'dpclean doctor', or use --device cpu")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it takes ten times as long as float32 on a CPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Too little memory in the middle of a job, for which each library has its own words, is a refusal."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        raise SetupError(
            f"{what} failed: {first_line(error)}",
            "free some memory, then give the same command again; or run 'dpclean doctor'",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0]


def keep_memory() -> None:
    """Ask glibc to keep freed blocks up to 1 GiB for the next request, for the whole process.

    By default it hands each large block back to the system and takes it anew, page by page, at every layer of every
    batch: up to a third of a small network's time. Where the C library is another one, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGEST)
        mallopt(_MMAP_THRESHOLD, _LARGEST)


def give_back_memory() -> None:
    """Hand all freed blocks back to the system, for a process that is short of memory.

    Compiled kernels need pages of their own: they cannot be made where freed blocks take up all that is allowed.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
