"""Sanitize a data set: the one place where data, noise, denoiser and job meet.

options.py  what can be asked for          job.py   begin, resume, finish: the story of one command
results.py  what is told                   work.py  samples in, sanitized samples out, committed in chunks
save.py     manifest, ancestry, checksums  example_images.py to look at
choose.py   several noise levels to look at
listing.py  RAW, now and when the job began ledger.py, quarantine.py  one row a sample; what was left out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpclean.pipeline.choose import sigma_sheet as sigma_sheet
    from dpclean.pipeline.job import dry_run as dry_run
    from dpclean.pipeline.job import sanitize as sanitize

_HOMES = {"sigma_sheet": "choose", "dry_run": "job", "sanitize": "job"}
__all__ = ["dry_run", "sanitize", "sigma_sheet"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # looked up when asked for: `quarantine` needs no more than the ledger
        from importlib import import_module

        return getattr(import_module(f"dpclean.pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dpclean.pipeline' has no attribute {name!r}")
