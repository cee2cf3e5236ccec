"""The parameters of a job: everything that is fixed before run 1."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from dpclean import __version__
from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.decimals import shortest
from dpclean.certificate.parameters import (
    FAMILIES,
    FORMAT,
    ORDER,
    ORDER_AT_TEST_TIME,
    CertificateParameters,
    Decoding,
    DenoiserUsed,
    EvasionParameters,
    ExtractorUsed,
    FormError,
    JobParameters,
    LocalSmoothing,
    ModelUsed,
    OwnParameters,
    Partitions,
    RawData,
    as_json,
    check_consistent,
    from_json,
    may_add_runs,
    noise_distances,
)
from dpclean.certificate.partitions import RUNOFF
from dpclean.certificate.threats import find_threat
from dpclean.certificate.whole_images import numbers_of, word_of
from dpclean.certify.data import inputs_digest
from dpclean.certify.division import divided_by
from dpclean.certify.extracted import extractor_of
from dpclean.certify.feature_inputs import POINT_SOURCE, CertifiedFeatures
from dpclean.certify.feature_runs import FeatureData
from dpclean.certify.inputs import CertifiedData, known_of
from dpclean.certify.options import DEFAULT_ALPHA, DEFAULT_RUNS, CertifyOptions, local_numbers
from dpclean.certify.run_settings import choose_init, choose_recipe, image_size
from dpclean.certify.test_time_inputs import POINT_SOURCE as GIVEN
from dpclean.certify.test_time_inputs import CertifiedImages, PointData
from dpclean.data.features import KIND
from dpclean.data.records import DataOptions
from dpclean.errors import Reason
from dpclean.jobs.command import Command
from dpclean.jobs.record import Json
from dpclean.train.ridge import Ridge

# what is found out when a job begins; workers compare it, not the command that starts them
FOUND = ("attempt", "engine", "key_commitment", "rows_digest", "tool")


def make_parameters(certified: CertifiedData | CertifiedFeatures, options: CertifyOptions) -> JobParameters:
    """The parameters of a job; of what FOUND names they hold nothing yet."""
    share = options.subsample
    if isinstance(certified, CertifiedFeatures):
        of_data = _of_features(certified)
    else:
        of_data = _of_images(certified, options)
    return JobParameters(
        format=FORMAT,
        tool=f"dpclean {__version__}",
        points=len(certified.points),
        classes=list(certified.classes),
        threat=options.threat,
        seed=options.seed,
        attempt=1,
        point_names=certified.points.names,
        points_digest=certified.points_digest,
        points_in_training=certified.points_in_training,
        key_commitment="",
        order=ORDER,
        engine={},
        keep_models=options.keep_models,
        exploratory=False,
        subsample=msgspec.UNSET if share is None else word_of(share),
        with_images=msgspec.UNSET if options.with_images is None else numbers_of(options.with_images),
        **_statement(certified, options),
        **of_data,
    )


def _statement(certified: CertifiedData | CertifiedFeatures, options: CertifyOptions) -> dict[str, Any]:
    """The parameters that say what a claim is: of parts nothing is left to chance, so all claims are true together."""
    if options.partitions is not None:
        return {
            "runs": options.partitions,
            "selection_runs": 0,
            "alpha": "0",
            "bound": options.election or RUNOFF,
            "family": "all",
            "partitions": Partitions(parts=options.partitions, by=divided_by(certified.train, options.partition_by)),
        }
    return _of_chance(options)


def _of_chance(options: CertifyOptions, **more: Any) -> dict[str, Any]:
    runs, bound = options.runs or DEFAULT_RUNS, options.bound or DEFAULT_BOUND
    return {
        "runs": runs,
        "selection_runs": find_bound(bound).selection_runs(runs),
        "alpha": shortest("alpha", options.alpha or DEFAULT_ALPHA),
        "bound": bound,
        "family": options.family or FAMILIES[0],
        **more,
    }


def make_test_time_parameters(certified: CertifiedImages, options: CertifyOptions) -> EvasionParameters:
    """The same of a job whose runs ask one model about noised test images."""
    assert options.sigma is not None
    sigma, model, files = shortest("sigma", options.sigma), certified.model, certified.denoiser
    local = None if options.local_smoothing is None else local_numbers(options.local_smoothing)
    return EvasionParameters(
        format=FORMAT,
        tool=f"dpclean {__version__}",
        points=len(certified.points),
        classes=list(certified.classes),
        sigma=sigma,
        threat=options.threat,
        seed=options.seed,
        attempt=1,
        point_names=certified.points.names,
        point_source=GIVEN,
        points_digest=certified.points_digest,
        inputs_digest=PointData.of(certified.points).digest(),
        key_commitment="",
        order=ORDER_AT_TEST_TIME,
        engine={},
        exploratory=False,
        values=certified.values,
        denoiser=DenoiserUsed(
            id=files.id,
            digests=files.digests(),
            method=certified.method,
            ancestry=known_of(files.ancestry(), certified),
        ),
        model=ModelUsed(id=model.id, digest=model.digest, ancestry=known_of(model.ancestry, certified)),
        recipe=model.recipe.as_dict(),
        size=model.size,
        local_smoothing=None if local is None else LocalSmoothing(draws=local[0], sigma=local[1]),
        decode=_decoding(certified.data_options, limit=None, sample=None),
        **_of_chance(options, **noise_distances(sigma, certified.values)),
    )


def _of_images(certified: CertifiedData, options: CertifyOptions) -> dict[str, Any]:
    """The parameters that say how images were read and runs train on them."""
    source, denoiser = certified.source, certified.denoiser
    sigma = shortest("sigma", source.sigma)
    values = certified.values
    if find_threat(options.threat).noises_points and denoiser is not None:
        values += max(image.size for image in certified.points.pixels)
    used = denoiser and DenoiserUsed(
        id=denoiser.id,
        digests=denoiser.digests(),
        method=source.method,
        ancestry=known_of(denoiser.ancestry(), certified),
    )
    return {
        "sigma": sigma,
        "values": values,
        **noise_distances(sigma, values),
        "point_source": certified.point_source,
        "raw": _raw(certified, certified.train.kind),
        "inputs_digest": inputs_digest(certified.train, certified.points, certified.division),
        "denoiser": used,
        "decode": _decoding(source.data_options, source.limit, source.sample),
        **(_of_networks if options.extractor is None else _of_heads)(certified, options),
    }


def _of_networks(certified: CertifiedData, options: CertifyOptions) -> dict[str, Any]:
    """What runs train where they train a network, or a command does."""
    recipe = None if options.trainer else choose_recipe(certified, options)
    trainer = Command(options.trainer, "--trainer") if options.trainer else None
    return {
        "recipe": None if recipe is None else recipe.as_dict(),
        "size": None if recipe is None else image_size(certified, recipe),
        "init": None if recipe is None else choose_init(certified, options, recipe),
        "trainer": trainer.spelled() if trainer else None,
        "trainer_files": trainer.files() if trainer else None,
        "run_timeout": options.run_timeout if options.trainer else None,
    }


def _of_heads(certified: CertifiedData, options: CertifyOptions) -> dict[str, Any]:
    """The same where they train heads on what an extractor makes of images."""
    extractor = extractor_of(options, certified)
    return {
        "recipe": Ridge().as_dict(),
        "size": extractor.size,
        "dimensions": extractor.dimensions(),
        "extractor": ExtractorUsed(
            id=extractor.id,
            digest=extractor.digest,
            size=extractor.size,
            ancestry=known_of(extractor.ancestry, certified),
        ),
        **dict.fromkeys(("init", "trainer", "trainer_files", "run_timeout")),
    }


def _decoding(options: DataOptions, limit: int | None, sample: int | None) -> Decoding:
    return Decoding(
        alpha_policy=options.alpha_policy,
        follow_links=options.follow_links,
        max_pixels=options.max_pixels,
        layout=options.layout,
        limit=limit,
        sample=msgspec.UNSET if sample is None else sample,
    )


def _of_features(certified: CertifiedFeatures) -> dict[str, Any]:
    """The same where rows of features stand for images: nothing was decoded, and there is no noise."""
    train = certified.train
    return {
        "sigma": "0",
        "values": train.rows.size,
        **noise_distances("0", train.rows.size),
        "point_source": POINT_SOURCE,
        "raw": _raw(certified, KIND),
        "inputs_digest": FeatureData.of(train, certified.points, certified.division).digest(),
        "recipe": Ridge().as_dict(),
        "dimensions": train.dimensions,
        **dict.fromkeys(("denoiser", "size", "init", "trainer", "trainer_files", "run_timeout", "decode")),
    }


def _raw(certified: CertifiedData | CertifiedFeatures, kind: Literal["folder", "shards", "features"]) -> RawData:
    return RawData(
        pixel_digest=certified.raw_digest,
        certified_digest=certified.train_digest,
        images=len(certified.train),
        listed=certified.train.listed,
        quarantined={Reason(reason): count for reason, count in certified.train.quarantined.items()},
        kind=kind,
    )


def found_of(parameters: OwnParameters) -> Json:
    """What of a job's parameters was found out when it began, but for its engine, which is its environment."""
    found = {name: getattr(parameters, name, msgspec.UNSET) for name in (*FOUND, "runs") if name != "engine"}
    return {name: value for name, value in found.items() if value is not msgspec.UNSET}


def fixed_before(parameters: CertificateParameters) -> Json:
    """What two jobs must have in common to be the same; with some bounds runs may be added."""
    skipped = {*FOUND, *(("runs",) if may_add_runs(parameters) else ())}
    plain: Json = json.loads(json.dumps(as_json(parameters)))  # as whoever reads the votes will have them
    return {name: value for name, value in plain.items() if name not in skipped}


def whole(fixed: Json, found: Json, engine: Json) -> JobParameters | EvasionParameters:
    """The parameters of a job that was begun. Raises FormError where they are not of their form."""
    read = from_json(json.loads(json.dumps({**fixed, **found, "engine": engine})))
    check_consistent(read)
    if not isinstance(read, JobParameters | EvasionParameters):
        raise FormError("they are of no job")
    return read
