"""Keeping the memory of activations from one batch to the next on the CPU."""

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
