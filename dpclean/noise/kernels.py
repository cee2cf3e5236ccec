"""Which compiled kernel runs, and how many threads."""

from __future__ import annotations

import os
import sys

from dpclean import _kernels
from dpclean.errors import UsageError


def kernel_names() -> tuple[str, ...]:
    """The CPU kernels that this machine can run, fastest first; "scalar" is always among them."""
    return tuple(_kernels.kernel_names())


def kernel_name() -> str:
    """The CPU kernel in use: the fastest, or the one that DPCLEAN_KERNEL names (UsageError if it cannot run here)."""
    names = kernel_names()
    wanted = os.environ.get("DPCLEAN_KERNEL") or names[0]
    if wanted not in names:
        raise UsageError(
            f"kernel '{wanted}' was asked for but this CPU has {', '.join(names)}",
            "unset DPCLEAN_KERNEL to let dpclean choose",
        )
    return wanted


def cuda_built() -> bool:
    """Whether CUDA kernels were compiled in; says nothing about a GPU being here."""
    return _kernels.cuda_built


def default_threads() -> int:
    """Torch's number of threads where torch is loaded, else 1."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else 1
