"""Certify a data set: many models, each on a copy with noise of its own, and what their votes prove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpclean.certify.job import certify as certify

__all__ = ["certify"]


def __getattr__(name: str) -> Any:
    if name == "certify":  # looked up when asked for: the command line lists options without the job
        from dpclean.certify.job import certify

        return certify
    raise AttributeError(f"module 'dpclean.certify' has no attribute {name!r}")
