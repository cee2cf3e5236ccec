"""Bounds: each a rule that makes a claim of counted votes, in a file of its own. This is their registry.

A bound is asked by its object; nothing outside this folder knows which one it is. Names cost no import, so that the
command line can list them. Another one is a module with its class, a `base.Bound`, its object BOUND, and a line here.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from dpclean.errors import UsageError

if TYPE_CHECKING:
    from dpclean.certificate.bounds.base import Bound

_HOMES = {  # name: the module with its object, of the name BOUND
    "multiclass": "dpclean.certificate.bounds.multiclass",
    "union": "dpclean.certificate.bounds.union",
    "cohen": "dpclean.certificate.bounds.cohen",
    "anytime": "dpclean.certificate.bounds.anytime",
}
BOUNDS = tuple(_HOMES)
DEFAULT_BOUND = BOUNDS[0]


@cache
def find_bound(name: str) -> Bound:
    """The bound of a name. Raises UsageError."""
    if name not in _HOMES:
        raise UsageError(f"bound {name!r} is not known", f"give one of: {', '.join(BOUNDS)}")
    bound: Bound = import_module(_HOMES[name]).BOUND
    return bound
