"""Keeping the memory of activations from one batch to the next on the CPU, and giving it back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST = 1 << 30  # bytes


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
