"""Noise and denoiser, the defence of this house."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.sight import Sight, ThroughDenoiser
from dpclean.audit.defences.defence import Check, Defence, Pixels, Setting
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.denoise.methods import find_method
from dpclean.denoise.methods.registry import FORMS
from dpclean.jobs.record import Json


class Sanitized(Defence):
    """What `dpclean sanitize` does."""

    name = "sanitized"
    paper = "Diffusion Denoising as a Certified Defense against Clean-label Poisoning, 2024, arXiv 2403.11981"
    about = (
        "noise of this size, taken away by a diffusion model, as 'dpclean sanitize' does: by --denoiser and --method,"
        " or by others, as in sanitized:perceptual:ddim:4"
    )
    changes = True

    def __init__(self, sigma: float, setting: Setting, argument: str = "") -> None:
        self.sigma: float = sigma
        source, method = _parts(argument)
        self.source, self.method = source or setting.denoiser, method or setting.method
        self._argument, self._device, self._key = argument, setting.device, setting.key

    @classmethod
    def asked_as(cls) -> str:
        return f"{cls.name}[:DENOISER][:METHOD]"

    @property
    def label(self) -> str:
        name = f"{self.name}:{self._argument}" if self._argument else self.name
        return f"{name} at {self.sigma:g}"

    @classmethod
    def check(cls, argument: str) -> None:
        _, method = _parts(argument)
        if method:
            find_method(method)

    @classmethod
    def reads(cls, argument: str) -> Sequence[str]:
        source, _ = _parts(argument)
        return (source,) if source else ()

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(sigma, setting, argument) for sigma in setting.sigmas]

    def parameters(self) -> Json:
        if not self._argument:
            return {}
        return {"denoiser": find_denoiser(self.source).digests(), "method": self.method}

    @cached_property
    def denoiser(self) -> Denoiser:
        return Denoiser(find_denoiser(self.source), self.sigma, method=self.method, device=self._device)

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        pairs = list(zip(indices, images, strict=True))
        found = self.denoiser.denoise(pairs, key=self._key, run=run, on_batch=lambda _: check())
        by_index = {result.index: result.pixels for result in found}
        return [by_index[index] for index in indices]

    def seen_through(self, key: bytes) -> Sight:
        return ThroughDenoiser(self.denoiser, key)


def _parts(argument: str) -> tuple[str, str]:
    """Denoiser and method of "DENOISER:METHOD", either of which may be missing; a denoiser is whatever no method is."""
    words = argument.split(":")
    names = [form.partition(":")[0] for form in FORMS]
    first = next((place for place, word in enumerate(words) if word in names), len(words))
    return ":".join(words[:first]), ":".join(words[first:])
