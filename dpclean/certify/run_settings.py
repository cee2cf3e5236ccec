"""How the runs of a job are done: everything a worker needs beside the data and the key.

Workers on rows of features read it too, so torch is imported where there are images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from dpclean.certificate.parameters import (
    EvasionParameters,
    ExtractorUsed,
    InitialWeights,
    JobParameters,
    has_rankings,
    share_of,
)
from dpclean.certify.inputs import CertifiedData, check_ancestry, known_of
from dpclean.certify.options import CertifyOptions, local_numbers
from dpclean.certify.test_time_inputs import CertifiedImages
from dpclean.certify.trainer_command import check_class_names, fits_one_shard
from dpclean.data.ancestry import Ancestry, united
from dpclean.errors import InputError
from dpclean.jobs.checks import given_path
from dpclean.train.recipes import Recipe, default_recipe, find_recipe

Settings = TypeVar("Settings", bound="NoiseSettings")

THREADS = 1  # of a worker on a CPU: fixed, so that the number of workers changes no result
FEWEST = 2  # images that a run trains on; with less it votes for nobody


@dataclass(frozen=True)
class NoiseSettings:
    """How images are noised and denoised. sigma is its exact decimal; batch_pixels 0: to be found."""

    sigma: str
    denoiser: str
    denoiser_digests: dict[str, str]
    method: str
    device: str
    dtype: str
    batch_pixels: int


@dataclass(frozen=True)
class RunSettings(NoiseSettings):
    """size: edge of the images that the network trains on."""

    threat: str
    recipe: dict[str, Any] | None
    size: int | None
    init: str | None
    init_digest: str | None
    trainer: str | None
    trainer_files: dict[str, str] | None
    run_timeout: float
    kind: str  # of the copy for a trainer command: folder or shards
    keep_models: bool
    share: int | None  # in how many of 2^32 cases an image is in a run; None: all are in every run, or a part
    rankings: bool  # whether a vote is a ranking of all classes
    extractor: str | None = None  # where heads are trained on what it makes of images
    weights: str | None = None  # of an extractor that brings none
    extractor_digest: str | None = None


@dataclass(frozen=True)
class TestTimeSettings(NoiseSettings):
    """draws, local_sigma: of local smoothing, 0 and "0" without; weights: of a torchvision model. recipe, size: how the
    model takes images, which its weights do not say.
    """

    __test__ = False

    model: str
    weights: str | None
    model_digest: str
    recipe: dict[str, Any]
    size: int
    draws: int
    local_sigma: str


def choose_recipe(certified: CertifiedData, options: CertifyOptions) -> Recipe:
    """The recipe asked for, that of the model begun from, or the one that fits the number and size of the images."""
    from dpclean.train.init import described_init

    known = None if options.init is None else described_init(options.init)
    if options.recipe is not None:
        recipe = find_recipe(options.recipe)
    else:
        recipe = known.recipe if known else default_recipe(certified.train.pixels)
    return replace(recipe, freeze=options.freeze)


def choose_init(certified: CertifiedData, options: CertifyOptions, recipe: Recipe) -> InitialWeights | None:
    """The weights that each run begins from, for the terms.

    Raises InputError where they depend on raw data or were made from images of RAW, as far as that is known.
    """
    if options.init is None:
        return None
    from dpclean.train.init import find_init

    init = find_init(options.init, recipe)
    if init.not_certifiable:
        raise InputError(
            f"{options.init!r} is not certifiable: {init.not_certifiable[0]}",
            "use weights that depend on no raw data",
        )
    check_ancestry(f"the weights {options.init!r}", init.ancestry, certified)
    return InitialWeights(source=init.source, digest=init.digest, ancestry=known_of(init.ancestry, certified))


def made_of(certified: CertifiedData, settings: RunSettings) -> Ancestry:
    """What the models of the runs are made of, as far as it is known."""
    from dpclean.train.init import find_init

    assert certified.denoiser is not None
    parts = [certified.ancestry, certified.denoiser.ancestry()]
    if settings.init is not None:
        parts.append(find_init(settings.init, recipe_of(settings.recipe)).ancestry)
    return united(parts)


def recipe_of(fields: dict[str, Any] | None) -> Recipe:
    """A recipe from its JSON form."""
    return msgspec.convert(fields, Recipe)


def image_size(certified: CertifiedData, recipe: Recipe) -> int:
    """The edge of the images that the network trains on. Raises InputError where they are not of one size.

    Points of another size are brought to it, as `train` does with test images.
    """
    from dpclean.train.images import common_size

    return recipe.size or common_size(certified.train.pixels)


def make_run_settings(certified: CertifiedData, options: CertifyOptions, parameters: JobParameters) -> RunSettings:
    """Those of a job that may begin on this machine. Raises InputError for classes that --trainer cannot have."""
    from dpclean.train.extractor import lasting

    train, denoiser = certified.train, parameters.denoiser
    assert denoiser is not None and certified.denoiser is not None  # as rows are not made once for all runs
    if options.trainer is not None:
        check_class_names(certified.classes, folders=not fits_one_shard(train.kind, train.pixels))
    return RunSettings(
        sigma=parameters.sigma,
        denoiser=absolute(certified.denoiser.id),
        denoiser_digests=denoiser.digests,
        method=certified.source.method,
        device=options.device,
        dtype=options.dtype,
        batch_pixels=options.batch_pixels or 0,
        threat=options.threat,
        recipe=parameters.recipe,
        size=parameters.size,
        init=None if options.init is None else absolute(options.init),
        init_digest=parameters.init.digest if parameters.init else None,
        trainer=options.trainer,
        trainer_files=parameters.trainer_files,
        run_timeout=options.run_timeout,
        kind=train.kind,
        keep_models=options.keep_models,
        share=share_of(parameters),
        rankings=has_rankings(parameters),
        extractor=None if options.extractor is None else lasting(options.extractor),
        weights=None if options.weights is None else str(options.weights.resolve()),
        extractor_digest=parameters.extractor.digest if isinstance(parameters.extractor, ExtractorUsed) else None,
    )


def make_test_time_settings(
    certified: CertifiedImages, options: CertifyOptions, parameters: EvasionParameters
) -> TestTimeSettings:
    """Those of a job that may begin on this machine."""
    draws, local_sigma = (0, "0") if options.local_smoothing is None else local_numbers(options.local_smoothing)
    assert options.model is not None
    return TestTimeSettings(
        sigma=parameters.sigma,
        denoiser=absolute(certified.denoiser.id),
        denoiser_digests=parameters.denoiser.digests,
        method=certified.method,
        device=options.device,
        dtype=options.dtype,
        batch_pixels=options.batch_pixels or 0,
        model=options.model if options.weights is not None else absolute(options.model),
        weights=None if options.weights is None else absolute(str(options.weights)),
        model_digest=certified.model.digest,
        recipe=parameters.recipe,
        size=parameters.size,
        draws=draws,
        local_sigma=local_sigma,
    )


def settled(settings: Settings, engine: dict[str, Any]) -> Settings:
    """The settings with what was found out about the engine, so that no worker finds out something else."""
    return replace(settings, device=engine["device"], dtype=engine["dtype"], batch_pixels=engine["batch_pixels"])


def absolute(name: str) -> str:
    """A path, if it is one, that workers find wherever they are started."""
    path = given_path(name)
    return str(path.resolve()) if path.exists() else name
