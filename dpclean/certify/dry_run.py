"""A look ahead: one run with a key that is thrown away, timed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from dpclean.certificate.limits import ceiling, check_parameters
from dpclean.certify.data import Data
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.options import CertifyKeywords, CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.certify.results import CertifyDryRun
from dpclean.certify.run_settings import THREADS, make_run_settings
from dpclean.jobs.checks import options_of
from dpclean.jobs.staging import Staging
from dpclean.noise.keys import draw_key


def dry_run(
    clean: str | os.PathLike[str] = "clean",
    out: str | os.PathLike[str] = "certificate",
    *,
    say: Callable[[str], None] | None = None,
    **options: Unpack[CertifyKeywords],
) -> CertifyDryRun:
    """What `certify` with the same arguments would do; writes nothing. Raises what `certify` would refuse."""
    import torch

    from dpclean.certify.training_runs import TrainingRuns

    asked = options_of(CertifyOptions, "certify", options)
    source = find_source(Path(clean), asked)
    Staging(Path(out)).check_apart(clean, asked.raw, asked.test, asked.denoiser, asked.init, source.raw)
    if say is not None and source.taken:
        say(source.taken)
    certified = read_certified_data(source, asked)
    parameters = make_parameters(certified, asked)
    check_parameters(parameters)
    settings = make_run_settings(certified, asked, parameters)
    train, points = certified.train, certified.points
    data = Data.of(train, points)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            runs = TrainingRuns(settings, certified.classes, draw_key(), Path(scratch))
            runs.prepare(data)
            runs.cast(1)  # pays for what is set up once
            runs.seconds.clear()
            runs.cast(2)
    finally:
        torch.set_num_threads(threads)
    on_cpu = runs.denoiser.device.type == "cpu"
    workers = asked.workers or (len(os.sched_getaffinity(0)) if on_cpu else torch.cuda.device_count())
    return CertifyDryRun(
        out=str(out),
        images=len(train),
        points=len(points),
        classes=len(certified.classes),
        sigma=parameters.sigma,
        runs=asked.runs,
        workers=workers,
        seconds_by_part={name: round(seconds, 3) for name, seconds in runs.seconds.items()},
        seconds=round(sum(runs.seconds.values()) * asked.runs / workers, 1),
        bytes=asked.runs * (4 * len(points) + 100) + sum(image.size for image in [*train.pixels, *points.pixels]),
        ceiling=ceiling(parameters),
    )
