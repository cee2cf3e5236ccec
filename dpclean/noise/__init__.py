"""Integer Gaussian noise for images, exact and addressable.

x + Z, Z = round(N(0, (255 sigma)^2)) independent for every sample, a pure function of (key, run, index, test, sigma):
the same bits whatever the batch, its order, the threads, the kernel or the device. The fused forms go straight to a
diffusion model's input and back from its prediction; they need torch, which is imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpclean.noise.add import add_noise
from dpclean.noise.table import SIGMA_MAX

if TYPE_CHECKING:
    from dpclean.noise.fused import to_model_input, to_uint8

__all__ = [
    "SIGMA_MAX",
    "add_noise",
    "to_model_input",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    if name in ("to_model_input", "to_uint8"):
        from dpclean.noise import fused

        return getattr(fused, name)
    raise AttributeError(f"module 'dpclean.noise' has no attribute '{name}'")
