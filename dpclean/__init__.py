"""dpclean: sanitize training images that others made, by noise of a known size and a diffusion denoiser.

sanitize(raw, out, *, sigma, ...)   a whole data set, as the command of that name does
Sanitizer(sigma, ...)               the same as a torch module and torchvision transform
dpclean.noise.add_noise(...)        the exact integer noise alone
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpclean.pipeline import sanitize as sanitize
    from dpclean.sanitizer import Sanitizer as Sanitizer

__version__ = "0.1.0"
__all__ = ["Sanitizer", "__version__", "sanitize"]
_HOMES = {"sanitize": "dpclean.pipeline", "Sanitizer": "dpclean.sanitizer"}


def __getattr__(name: str) -> Any:
    # looked up when asked for: importing dpclean must not import torch
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dpclean' has no attribute {name!r}")
