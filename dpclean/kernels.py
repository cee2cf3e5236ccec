"""The door to the compiled kernels: which are there, which is forced, how many threads, what a failure says."""

from __future__ import annotations

import os
import sys

from dpclean import _kernels
from dpclean.errors import SetupError, UsageError


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


def convolution_type() -> str | None:
    """The type, "f32" or "bf16", in which the CPU kernel in use has a convolution that is faster than torch's."""
    return _kernels.convolution_type(kernel_name())


def cuda_built() -> bool:
    """Whether CUDA kernels were compiled in; says nothing about a GPU being here."""
    return _kernels.cuda_built


def default_threads() -> int:
    """Torch's number of threads where torch is loaded, else 1."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else 1


class cuda_errors:
    """Turns a launch that failed into a refusal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            remedy = "use --device cpu, or rebuild dpclean for this GPU"
            raise SetupError(f"a CUDA kernel of dpclean failed: {error}", remedy)
