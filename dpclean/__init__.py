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
    if name == "_kernels":  # 'from dpclean import _kernels' asks here first
        try:
            return importlib.import_module("dpclean._kernels")
        except ImportError as error:
            raise _not_built(error) from error
    raise AttributeError(f"module 'dpclean' has no attribute {name!r}")


def _not_built(error: ImportError) -> Exception:
    """Why the compiled module cannot be imported, and the command that builds it for this Python."""
    import shlex
    import sys
    from pathlib import Path

    from dpclean.errors import SetupError

    package = Path(__file__).resolve().parent
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    built = sorted(path.name for path in package.glob("_kernels.*.so"))
    if not isinstance(error, ModuleNotFoundError):
        found = f"dpclean's compiled extension cannot be loaded by this {python} ({str(error).splitlines()[0]})"
    elif built:
        found = f"dpclean's compiled extension is not built for this {python}, only {', '.join(built)} is there"
    else:
        found = f"dpclean's compiled extension is not built for this {python}"
    checkout = (package.parent / "setup.py").is_file()
    source = f"-e {shlex.quote(str(package.parent))}" if checkout else "--force-reinstall --no-deps dpclean"
    return SetupError(found, f"build it with {shlex.quote(sys.executable)} -m pip install {source}")
