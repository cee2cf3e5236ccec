"""What `certify` can be asked for, checked before anything is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from dpclean.certificate.bounds import BOUNDS
from dpclean.certificate.bounds.search import MOST_RUNS
from dpclean.certificate.decimals import exact_decimal, shortest
from dpclean.certificate.limits import level_of
from dpclean.certificate.parameters import FAMILIES, MOST_DRAWS
from dpclean.certificate.partitions import ELECTIONS, WORDS
from dpclean.certificate.threats import DEFAULT_THREAT, EVASION, THREATS, find_threat
from dpclean.certificate.whole_images import numbers_of, word_of
from dpclean.denoise.methods import find_method
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_holdout, check_ranges, check_seed
from dpclean.jobs.command import Command
from dpclean.noise import SIGMA_MAX

RIDGE = "ridge"
# what has no meaning where no image is read; --device says how fast, and rows need none
OF_IMAGES = (
    "raw", "test", "holdout", "init", "freeze", "trainer", "run_timeout", "denoiser", "method", "dtype", "batch_size",
    "limit", "extractor", "weights",
)  # fmt: skip
OF_NETWORKS = ("init", "freeze", "trainer", "run_timeout")  # what has no meaning where heads are trained
OF_NOISE = ("denoiser", "method", "dtype", "batch_size")  # nor where an extractor gets images as they are
# what has no meaning where nothing is trained
OF_TRAINING = (
    "raw", "holdout", "recipe", "init", "freeze", "trainer", "run_timeout", "limit", "subsample", "features",
    "test_features", "extractor", "with_images", "partitions", "election", "partition_by", "keep_models",
)  # fmt: skip
OF_EVASION = ("model", "local_smoothing")
LOCAL_HINT = "5:0.03 is an example, for a model that learned from images with noise of that size"
CHOICES = {
    "threat": tuple(THREATS),
    "family": FAMILIES,
    "bound": BOUNDS,
    "election": tuple(ELECTIONS),
    "partition_by": tuple(WORDS),
}
DEFAULT_RUNS, DEFAULT_ALPHA = 1000, "0.001"
OF_CHANCE = ("runs", "alpha", "bound", "family", "subsample", "with_images")  # what has no meaning beside partitions


class CertifyKeywords(TypedDict, total=False):
    """The options as keywords of a function; the same names as in CertifyOptions, which checks them."""

    runs: int | None
    raw: str | os.PathLike[str] | None
    test: str | os.PathLike[str] | None
    holdout: float | None
    sigma: str | float | None
    alpha: str | float | None
    bound: str | None
    family: str | None
    threat: str
    recipe: str | None
    init: str | os.PathLike[str] | None
    freeze: bool
    trainer: str | None
    run_timeout: float
    denoiser: str | os.PathLike[str] | None
    method: str | None
    device: str
    dtype: str
    batch_size: int | None
    workers: int | None
    limit: int | None
    seed: int | None
    seed_chosen_after_data: bool
    subsample: str | float | None
    features: str | os.PathLike[str] | None
    test_features: str | os.PathLike[str] | None
    extractor: str | None
    weights: str | os.PathLike[str] | None
    with_images: str | int | None
    partitions: int | None
    election: str | None
    partition_by: str | None
    model: str | os.PathLike[str] | None
    local_smoothing: str | None
    keep_models: bool
    overwrite: bool


@dataclass(frozen=True)
class CertifyOptions:
    """The options of `certify`; names and defaults are those of the command line.

    sigma and alpha are decimals, taken as the exact numbers they spell; sigma is on the [0, 1] pixel scale, None where
    a manifest says it. subsample: the share of the images that each run takes, a decimal too; with_images: beside how
    many changed images a radius is claimed too, numbers with commas between them. run_timeout in seconds, for the
    trainer command only. features, test_features: files of rows that stand for images. partitions: into how many parts
    the images are divided, each for one run; then runs, alpha, bound and family are None, which else stands for 1000,
    0.001, multiclass and point. model: what votes under the threat evasion, with local_smoothing, "M:S", by the mean of
    M predictions, each with noise of size S of its own. Raises UsageError where out of range.
    """

    runs: int | None = None
    raw: Path | None = None
    test: Path | None = None
    holdout: float | None = None
    sigma: str | None = None
    alpha: str | None = None
    bound: str | None = None
    family: str | None = None
    threat: str = DEFAULT_THREAT
    recipe: str | None = None
    init: str | None = None
    freeze: bool = False
    trainer: str | None = None
    run_timeout: float = 3600.0
    denoiser: str | None = None
    method: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    seed: int | None = None
    seed_chosen_after_data: bool = False
    subsample: str | None = None
    features: Path | None = None
    test_features: Path | None = None
    extractor: str | None = None
    weights: Path | None = None
    with_images: str | None = None
    partitions: int | None = None
    election: str | None = None
    partition_by: str | None = None
    model: str | None = None
    local_smoothing: str | None = None
    keep_models: bool = False
    overwrite: bool = False

    @property
    def batch_pixels(self) -> int | None:
        """Pixels in a batch, None where the denoiser is to find them."""
        return None if self.batch_size is None else self.batch_size * 32 * 32

    def demanded(self) -> dict[str, Any]:
        """What was asked of the engine by name, where the default would have chosen."""
        asked = {"device": self.device.split(":")[0], "dtype": self.dtype, "batch_pixels": self.batch_pixels}
        return {name: value for name, value in asked.items() if value not in ("auto", None)}

    @property
    def is_at_test_time(self) -> bool:
        """Whether one fixed model votes, and none is trained."""
        return not find_threat(self.threat).trains

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in (None, *known):
                said = name.replace("_", "-")
                raise UsageError(f"{said} {getattr(self, name)!r} is not known", f"give one of: {', '.join(known)}")
        if self.alpha is not None:
            level_of(self.family or "point", self.alpha)
        if self.sigma is not None and not 0 <= exact_decimal("sigma", self.sigma) <= SIGMA_MAX:
            raise UsageError(
                f"sigma must be from 0 to {SIGMA_MAX:g} on the [0, 1] pixel scale, got {self.sigma}",
                "0.25 is a common choice",
            )
        ranged = ("runs", "batch_size", "workers", "limit", "run_timeout")
        check_ranges(**{name: getattr(self, name) for name in ranged})
        if self.method is not None:
            find_method(self.method)
        self._check_evasion()
        if self.subsample is not None:
            word_of(self.subsample)
        if self.with_images is not None:
            numbers_of(self.with_images)
        self._check_pairs()
        self._check_partitions()

    def given(self, names: Iterable[str]) -> list[str]:
        """Those of some options that are not as they are by default."""
        plain = type(self)()
        return [name for name in names if getattr(self, name) not in (None, getattr(plain, name))]

    def _check_evasion(self) -> None:
        """Refuse what is about training where one fixed model votes, and what is about that model elsewhere."""
        if not self.is_at_test_time:
            if given := [name for name in OF_EVASION if getattr(self, name) is not None]:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} has a meaning with --threat {EVASION} only", "leave it out"
                )
            return
        if given := self.given(OF_TRAINING):
            raise UsageError(
                f"--{given[0].replace('_', '-')} has no meaning with --threat {EVASION}: one model votes, and none is"
                " trained",
                "leave it out",
            )
        if missing := [name for name in ("model", "test", "sigma") if getattr(self, name) is None]:
            raise UsageError(
                f"--threat {EVASION} noises test images by --sigma and asks --model: --{missing[0]} is missing",
                "give --model, --test and --sigma",
            )
        if self.local_smoothing is not None:
            local_numbers(self.local_smoothing)

    def _check_features(self) -> None:
        """Refuse what is about images where there are rows of features, and rows that miss their other half."""
        if self.features is None and self.test_features is None:
            self._check_extractor()
            return
        if self.features is None or self.test_features is None:
            raise UsageError(
                "--features are what the runs train on, --test-features what they vote on, and one of them is missing",
                "give both",
            )
        if self.recipe not in (None, RIDGE):
            raise UsageError(f"recipe {self.recipe!r} trains on images", f"with --features give {RIDGE}, or none")
        given = self.given(OF_IMAGES)
        if self.sigma is not None and exact_decimal("sigma", self.sigma) > 0:
            given.append("sigma")
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is about images, and --features are none", "leave it out")

    def _check_extractor(self) -> None:
        """Refuse what does not go with images, or with images that an extractor turns into rows."""
        if self.extractor is None:
            if self.recipe == RIDGE:
                raise UsageError(
                    f"the recipe {RIDGE} is a head for rows of features, and there are images",
                    "give --extractor, or --features and --test-features",
                )
            if self.weights is not None and self.model is None:
                raise UsageError("--weights are those of an --extractor, which is not given", "give both")
            return
        if self.recipe not in (None, RIDGE):
            raise UsageError(
                f"recipe {self.recipe!r} trains a network, and with --extractor a head is trained", f"give {RIDGE}"
            )
        if given := self.given(OF_NETWORKS):
            raise UsageError(
                f"--{given[0].replace('_', '-')} has no meaning with --extractor, which is not trained", "leave it out"
            )

    def _check_pairs(self) -> None:
        if self.seed is not None and not self.seed_chosen_after_data:
            raise UsageError(
                "whoever knows the seed knows the noise, so a seed voids the certificate if it was known to whoever"
                " made the data",
                "leave --seed out, or say --seed-chosen-after-data if it was",
            )
        check_seed(self.seed)
        self._check_features()
        check_holdout(self.holdout, self.test)
        if self.trainer is not None and (self.recipe or self.init or self.freeze or self.keep_models):
            raise UsageError(
                "--trainer trains by itself: --recipe, --init, --freeze and --keep-models have no meaning with it",
                "leave them out",
            )
        if self.freeze and self.init is None:
            raise UsageError("--freeze keeps the weights of --init, which is not given", "give --init, or no --freeze")
        if self.with_images is not None and self.subsample is None:
            raise UsageError(
                "--with-images asks for radii beside changed images: where all images are in every run there are none",
                "give --subsample, or leave --with-images out",
            )
        if self.trainer is not None:
            Command(self.trainer, "--trainer").check("data", "out")

    def _check_partitions(self) -> None:
        if self.partitions is None:
            if given := [name for name in ("election", "partition_by") if getattr(self, name) is not None]:
                raise UsageError(f"--{given[0].replace('_', '-')} has a meaning with --partitions only", "leave it out")
            return
        if not 2 <= self.partitions <= MOST_RUNS:
            raise UsageError(
                f"partitions must be from 2 to {MOST_RUNS}, got {self.partitions}",
                "more withstand more, as long as each has enough images to learn from",
            )
        if given := [name for name in OF_CHANCE if getattr(self, name) is not None]:
            said = given[0].replace("_", "-")
            raise UsageError(
                f"--{said} has no meaning with --partitions: a part has one run, and nothing is left to chance",
                "leave one of them out",
            )
        if find_threat(self.threat).noises_points:
            raise UsageError(f"{self.threat} has no meaning with --partitions, which claim no distance", "leave it out")


def local_numbers(text: str) -> tuple[int, str]:
    """(M, S) of M:S, the local smoothing of predictions. Raises UsageError."""
    draws, colon, sigma = text.partition(":")
    if not colon or not re.fullmatch("[0-9]{1,9}", draws) or not 1 <= int(draws) <= MOST_DRAWS or not sigma:
        raise UsageError(
            f"--local-smoothing is M:S, a number of predictions from 1 to {MOST_DRAWS} and the size of the noise on"
            f" each, got {text!r}",
            LOCAL_HINT,
        )
    if not 0 < exact_decimal("the size in --local-smoothing", sigma) <= SIGMA_MAX:
        raise UsageError(
            f"the size in --local-smoothing must be above 0 and at most {SIGMA_MAX:g}, got {sigma}",
            LOCAL_HINT,
        )
    return int(draws), shortest("the size in --local-smoothing", sigma)
