"""A look ahead: one run with a key that is thrown away, timed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import NO_RADIUS
from dpclean.certificate.limits import most_images, unanimous
from dpclean.certificate.parameters import JobParameters, counts_images, has_rankings, parts_of, settings_of, share_of
from dpclean.certificate.votes import ABSTAIN, first_of
from dpclean.certificate.whole_images import members_of_run
from dpclean.certify.data import Data
from dpclean.certify.extracted import extractor_of, seconds_an_image
from dpclean.certify.feature_inputs import CertifiedFeatures
from dpclean.certify.feature_runs import FeatureData, FeatureRuns
from dpclean.certify.inputs import CertifiedData
from dpclean.certify.job import CertifyJob
from dpclean.certify.options import CertifyKeywords, CertifyOptions
from dpclean.certify.results import CertifyDryRun
from dpclean.certify.run_settings import THREADS, RunSettings, TestTimeSettings
from dpclean.certify.runs_on_images import RunsOnImages
from dpclean.certify.test_time_inputs import CertifiedImages, PointData
from dpclean.certify.trainer_command import RunFailed
from dpclean.certify.worker import runs_on_images
from dpclean.jobs.checks import options_of
from dpclean.jobs.job import COMPLETE
from dpclean.noise.keys import draw_key


def dry_run(
    clean: str | os.PathLike[str] = "clean",
    out: str | os.PathLike[str] = "certificate",
    *,
    say: Callable[[str], None] | None = None,
    **options: Unpack[CertifyKeywords],
) -> CertifyDryRun:
    """What `certify` with the same arguments would do; writes nothing. Raises what `certify` would refuse."""
    asked = options_of(CertifyOptions, "certify", options)
    job = CertifyJob(Path(clean), Path(out), asked, say or (lambda _: None))
    complete = [COMPLETE] * job.foresee(overwrite=asked.overwrite)
    certified, parameters = job.certified, job.asked
    cores = len(os.sched_getaffinity(0))
    if isinstance(certified, CertifiedImages):
        return _at_test_time(job, certified, complete)
    failed: list[str] = []
    assert isinstance(parameters, JobParameters)
    if isinstance(certified, CertifiedFeatures):
        data = FeatureData.of(certified.train, certified.points, certified.division)
        seconds, values, at_once = _of_features(data, parameters), parameters.values * 4, cores
    elif not isinstance(job.settings, RunSettings):
        seconds, values, at_once = _of_extracted(certified, asked, parameters, asked.workers or cores), 0, cores
    else:
        seconds, device, failed = _of_images(certified, job.settings, parameters)
        values, at_once = sum(image.size for image in [*certified.train.pixels, *certified.points.pixels]), cores
        if device != "cpu":
            import torch

            at_once = torch.cuda.device_count()
    workers = asked.workers or at_once
    vote_bytes = 4 + (2 * len(certified.classes) if has_rankings(parameters) else 0)
    ceiling, most, members, spread = _reach(parameters, len(certified.train))
    return CertifyDryRun(
        out=str(out),
        images=len(certified.train),
        points=len(certified.points),
        classes=len(certified.classes),
        sigma=parameters.sigma,
        runs=parameters.runs,
        workers=workers,
        seconds_by_part={name: round(spent, 3) for name, spent in seconds.items()},
        seconds=round(sum(seconds.values()) * parameters.runs / workers, 1),
        bytes=parameters.runs * (vote_bytes * len(certified.points) + 100) + values,
        ceiling=ceiling,
        members=members,
        spread=spread,
        most_images=most,
        warnings=failed + complete,
    )


def _at_test_time(job: CertifyJob, certified: CertifiedImages, warnings: list[str]) -> CertifyDryRun:
    """The same where one model votes: from as many runs as are done together."""
    import torch

    from dpclean.certify.test_time_runs import TestTimeRuns

    parameters, settings = job.asked, job.settings
    assert isinstance(settings, TestTimeSettings)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        runs = TestTimeRuns(settings, draw_key(), PointData.of(certified.points), parameters.runs)
        list(runs.results([1]))  # pays for what is set up once
        some = min(runs.at_once, parameters.runs)
        begun = time.perf_counter()
        list(runs.results(range(1, some + 1)))
        seconds = (time.perf_counter() - begun) / some
        on_cpu = runs.denoiser.device.type == "cpu"
        workers = job.options.workers or (len(os.sched_getaffinity(0)) if on_cpu else torch.cuda.device_count())
    finally:
        torch.set_num_threads(threads)
    return CertifyDryRun(
        out=str(job.out),
        images=0,
        points=len(certified.points),
        classes=len(certified.classes),
        sigma=parameters.sigma,
        runs=parameters.runs,
        workers=workers,
        seconds_by_part={"noise, denoise and predict": round(seconds, 3)},
        seconds=round(seconds * parameters.runs / workers, 1),
        bytes=parameters.runs * (4 * len(certified.points) + 100) + certified.values * len(certified.points),
        ceiling=unanimous(find_bound(parameters.bound), settings_of(parameters)),
        warnings=warnings,
    )


def _reach(parameters: JobParameters, images: int) -> tuple[str, dict[str, int] | None, float | None, float | None]:
    """The ceiling, and of shares the most images and the members of a run with their spread; parts have neither."""
    if parts_of(parameters) is not None:
        return NO_RADIUS, None, None, None
    bound, claims, share = find_bound(parameters.bound), settings_of(parameters), share_of(parameters)
    if share is None:
        return unanimous(bound, claims), None, None, None
    return unanimous(bound, claims), most_images(bound, claims).as_json(), *members_of_run(share, images)


def _of_images(
    certified: CertifiedData, settings: RunSettings, parameters: JobParameters
) -> tuple[dict[str, float], str, list[str]]:
    """Seconds of a run by what they are spent on, the kind of device, and what is to be said of runs without a vote."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            runs = runs_on_images(settings, certified.classes, draw_key(), Path(scratch))
            runs.prepare(Data.of(certified.train, certified.points, certified.division))
            some = max(1, min(runs.at_once, parameters.runs - 1))
            _tried(runs, [1], parameters)  # pays for what is set up once
            runs.seconds.clear()
            failed = _tried(runs, range(2, 2 + some), parameters)
    finally:
        torch.set_num_threads(threads)
    return {part: spent / some for part, spent in runs.seconds.items()}, runs.denoiser.device.type, failed


def _tried(runs: RunsOnImages, numbers: Sequence[int], parameters: JobParameters) -> list[str]:
    """Do some runs; what is to be said where none has a vote. Raises RunFailed where the job would soon end by it."""
    try:
        ballots = [ballot for ballot, _ in runs.results(numbers)]
    except RunFailed as error:
        if not counts_images(parameters):
            raise
        why = error.message
    else:
        votes = [first_of(ballot) if has_rankings(parameters) else ballot for ballot in ballots]
        if any((cast != ABSTAIN).any() for cast in votes):
            return []
        why = "what it took was too little to train on, or cannot be learned from"
    return [
        f"the trial run has no vote: {why}; in the job such a run is a vote for nobody, and others may take longer than"
        " is estimated"
    ]


def _of_extracted(
    certified: CertifiedData, asked: CertifyOptions, parameters: JobParameters, workers: int
) -> dict[str, float]:
    """The extractor works once, before the first run; heads take as long for rows of zeros as for others."""
    train, points = certified.train, certified.points
    assert isinstance(parameters.dimensions, int)
    rows = [np.zeros((len(images), parameters.dimensions), np.float32) for images in (train, points)]
    divided = (
        {} if certified.division is None else {"order": certified.division.order, "sizes": certified.division.sizes}
    )
    an_image = seconds_an_image(extractor_of(asked, certified), certified)
    share_of_it = an_image * (len(train) + len(points)) * workers / parameters.runs
    heads = _of_features(FeatureData(rows[0], train.labels, train.indices, rows[1], **divided), parameters)
    return {"extract, a run's share of it": share_of_it, **heads}


def _of_features(data: FeatureData, parameters: JobParameters) -> dict[str, float]:
    runs = FeatureRuns(parameters, draw_key(), data)
    begun, some = time.perf_counter(), min(runs.at_once, parameters.runs)
    list(runs.results(range(1, some + 1)))
    return {"train and predict": (time.perf_counter() - begun) / some}
