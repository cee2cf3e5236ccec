"""dpclean: sanitize training images that others made, by noise of a known size and a diffusion denoiser.

sanitize(raw, out, *, sigma, ...)   a whole data set, as the command of that name does
Sanitizer(sigma, ...)               the same as a torch module and torchvision transform
dpclean.noise.add_noise(...)        the exact integer noise alone
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpclean.pipeline import sanitize as sanitize
    from dpclean.sanitizer import Sanitizer as Sanitizer

__version__ = "0.1.0"
__all__ = ["Sanitizer", "__version__", "sanitize"]
_PACKAGE = Path(__file__).resolve().parent
_HOMES = {"sanitize": "dpclean.pipeline", "Sanitizer": "dpclean.sanitizer"}


def __getattr__(name: str) -> Any:
    # looked up when asked for: importing dpclean must not import torch
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "_kernels":  # 'from dpclean import _kernels' asks here first
        try:
            kernels = importlib.import_module("dpclean._kernels")
        except ImportError as error:
            raise _not_built(_why_not(error)) from error
        if _is_outdated(kernels):
            globals().pop(name, None)  # else the next one who asks would get it
            raise _not_built("dpclean's compiled extension was built from other sources than csrc has now")
        return kernels
    raise AttributeError(f"module 'dpclean' has no attribute {name!r}")


def _is_checkout() -> bool:
    return (_PACKAGE.parent / "setup.py").is_file()


def _is_outdated(kernels: Any) -> bool:
    """Whether a checkout has other sources by now than those that were compiled."""
    from dpclean.build import COMPILED, code_digest

    sources = _PACKAGE.parent / "csrc"
    return _is_checkout() and sources.is_dir() and code_digest(sources, COMPILED) != getattr(kernels, "sources", None)


def _why_not(error: ImportError) -> str:
    """Why the compiled module cannot be imported."""
    import sys

    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    built = sorted(path.name for path in _PACKAGE.glob("_kernels.*.so"))
    if not isinstance(error, ModuleNotFoundError):
        return f"dpclean's compiled extension cannot be loaded by this {python} ({str(error).splitlines()[0]})"
    only = f", only {', '.join(built)} is there" if built else ""
    return f"dpclean's compiled extension is not built for this {python}{only}"


def _not_built(found: str) -> Exception:
    """With the command that builds the compiled module for this Python."""
    import shlex
    import sys

    from dpclean.errors import SetupError

    source = f"-e {shlex.quote(str(_PACKAGE.parent))}" if _is_checkout() else "--force-reinstall --no-deps dpclean"
    return SetupError(found, f"build it with {shlex.quote(sys.executable)} -m pip install {source}")
