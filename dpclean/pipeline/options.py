"""What `sanitize` can be asked for, checked before anything is touched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from dpclean.data.records import DataOptions
from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_ranges, check_seed
from dpclean.noise import SIGMA_MAX
from dpclean.threads import check_threads

CHOICES: dict[str, tuple[str | None, ...]] = {
    "format": ("png", "webp", "same"),
    "alpha_policy": ("composite", "drop", "keep", "reject"),
    "layout": (None, "nhwc", "nchw"),
}
NUMBERS = ("batch_size", "workers", "limit", "sample", "max_pixels", "decode_timeout", "decode_memory")
# the options that change what the data are; a resumed job must have the same
IDENTITY = (
    "sigma",
    "denoiser",
    "method",
    "seed",
    "format",
    "alpha_policy",
    "layout",
    "carry",
    "follow_links",
    "max_pixels",
    "limit",
    "sample",
)


class SanitizeKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in SanitizeOptions, which checks them."""

    denoiser: str | os.PathLike[str]
    method: str
    device: str
    dtype: str
    batch_size: int | None
    workers: int | None
    threads: int | None
    seed: int | None
    reveal_key: bool
    format: str
    alpha_policy: str
    layout: str | None
    carry: Sequence[str]
    follow_links: bool
    max_bad: str | int | float
    max_pixels: int
    decode_timeout: float
    decode_memory: int
    limit: int | None
    sample: int | None
    overwrite: bool
    check_raw: bool
    retry_bad: bool
    update: bool
    report: bool


@dataclass(frozen=True)
class SanitizeOptions:
    """The options of `sanitize`; names and defaults are those of the command line.

    sigma: noise on the [0, 1] pixel scale. batch_size: images of 32 x 32 in a batch, others in proportion.
    max_bad: a count, or a percentage of the listing. decode_timeout in seconds, decode_memory in bytes, per image.
    Raises UsageError for a value out of range.
    """

    sigma: float
    denoiser: str = "natural"
    method: str = "one-step"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    threads: int | None = None
    seed: int | None = None
    reveal_key: bool = False
    format: str = "png"
    alpha_policy: str = "composite"
    layout: str | None = None
    carry: tuple[str, ...] = ()
    follow_links: bool = False
    max_bad: str = "100%"
    max_pixels: int = 100_000_000
    decode_timeout: float = 30.0
    decode_memory: int = 1 << 30
    limit: int | None = None
    sample: int | None = None
    overwrite: bool = False
    check_raw: bool = False
    retry_bad: bool = False
    update: bool = False
    report: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= SIGMA_MAX:
            raise UsageError(
                f"sigma must be from 0 to {SIGMA_MAX:g} on the [0, 1] pixel scale, got {self.sigma}",
                "0.25 is a common choice; 0 adds no noise",
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name.replace('_', '-')} {getattr(self, name)!r} is not known",
                    f"give one of: {', '.join(choice for choice in known if choice)}",
                )
        check_ranges(**{name: getattr(self, name) for name in NUMBERS})
        find_method(self.method)
        if self.limit is not None and self.sample is not None:
            raise UsageError("--limit takes the first inputs, --sample some of every class", "give one of them")
        check_seed(self.seed)
        if self.overwrite and self.redoes:
            raise UsageError(
                "overwrite makes all of OUT anew, retry-bad and update a part of it", "give one or the other"
            )
        check_threads(self.threads)
        self.bad_limit(1)

    def data_options(self) -> DataOptions:
        """The part that reading and writing need. Raises SetupError where there is no such denoiser."""
        from dpclean.denoise.loading import find_denoiser

        return DataOptions(
            alpha_policy=self.alpha_policy,
            max_pixels=self.max_pixels,
            decode_timeout=self.decode_timeout,
            decode_memory=self.decode_memory,
            follow_links=self.follow_links,
            layout=self.layout,
            output_format=self.format,
            channels=find_denoiser(self.denoiser).channels,
            carry=self.carry,
        )

    def identity(self) -> dict[str, Any]:
        """The options that change what the data are, ready for JSON."""
        values = {name: getattr(self, name) for name in IDENTITY}
        return {**values, "carry": list(self.carry)}

    def demanded(self) -> dict[str, Any]:
        """What was asked of the engine by name, where the default would have chosen."""
        asked = {"device": self.device.split(":")[0], "dtype": self.dtype, "batch_pixels": self.batch_pixels}
        return {name: value for name, value in asked.items() if value not in ("auto", None)}

    @property
    def redoes(self) -> bool:
        """Whether a part of a complete OUT may be done anew."""
        return self.retry_bad or self.update

    @property
    def batch_pixels(self) -> int | None:
        """Pixels in a batch, None where the denoiser is to find them."""
        return None if self.batch_size is None else self.batch_size * 32 * 32

    def bad_limit(self, listed: int) -> float:
        """How many inputs may be left out of a listing of that length."""
        try:
            value = float(self.max_bad.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not value >= 0:
            raise UsageError(
                f"max-bad must be a count or a percentage, got {self.max_bad!r}", "give for example 10 or 5%"
            )
        return value * listed / 100 if self.max_bad.endswith("%") else value
