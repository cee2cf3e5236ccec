"""Methods by their names, as `--method`, manifests and certificates have them."""

from __future__ import annotations

from dpclean.denoise.methods.ddim import Ddim
from dpclean.denoise.methods.method import Method
from dpclean.denoise.methods.one_step import OneStep
from dpclean.denoise.methods.sde import Sde
from dpclean.errors import UsageError

METHODS: tuple[type[Method], ...] = (OneStep, Ddim, Sde)
FORMS = tuple(method.form for method in METHODS)  # "one-step", "ddim:STEPS", ...


def find_method(name: str) -> Method:
    """The method of a name. Raises UsageError for one that is not known. Needs no torch."""
    kind, colon, argument = name.partition(":")
    for method in METHODS:
        if method.form.partition(":")[0] == kind:
            return method.of(argument if colon else None)
    raise UsageError(f"method {name!r} is not known", f"give one of: {', '.join(FORMS)}")
