"""A process that does runs of a job until none is left: claim one, do it, write its vote.

Started as ``python -m dpclean.certify.worker PARENT OUT DEVICE RUNS NAME``; ends after the run it is at when its
standard input is closed. What went wrong is one JSON object on standard output, beside an exit code of errors.py.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpclean.errors import ConflictError, Diverged, DpcleanError, SetupError
from dpclean.jobs.child_process import die_with

if TYPE_CHECKING:
    from dpclean.certificate.parameters import EvasionParameters, JobParameters, OwnParameters
    from dpclean.certify.run_settings import RunSettings
    from dpclean.certify.run_tasks import RunTasks
    from dpclean.certify.runs import Runs
    from dpclean.certify.runs_on_images import RunsOnImages
    from dpclean.certify.workdir import BegunJob, Workdir


def main() -> None:
    """Work until no run is left or the parent closes standard input."""
    parent, out, device, runs, name = sys.argv[1:]
    die_with(int(parent))
    try:
        serve(Path(out), device, int(runs), name)
    except DpcleanError as error:
        _refuse(error)
    except OSError as error:
        _refuse(SetupError(f"a worker cannot go on: {error}", "free some space or mend it; the same command goes on"))
    except MemoryError as error:  # no vote: whether memory suffices may depend on what the run took
        said = "a worker ran out of memory, and no vote was cast for the run that it was at"
        told = f"{said}: {error}" if str(error) else said
        _refuse(SetupError(told, "free some, or give fewer --workers; the same command goes on"))


def _refuse(error: DpcleanError) -> None:
    print(json.dumps(error.as_dict()), flush=True)
    sys.exit(error.exit)


def serve(out: Path, device: str, count: int, name: str) -> None:
    """Do what is missing of runs 1..count of the job of an OUT, on one device; name: what claims are made under."""
    from dpclean.certify.workdir import Workdir
    from dpclean.jobs.key_file import read_key
    from dpclean.jobs.staging import Staging

    workdir = Workdir(Staging(out))
    job = workdir.begun()
    if job is None:  # another command has published the job meanwhile
        return
    runs = open_runs(workdir, job, read_key(workdir.staging.key), device)
    tasks = workdir.tasks(job.parameters, name)
    work(tasks, runs, tasks.missing(count), stop=_asked_to_stop)


def open_runs(workdir: Workdir, job: BegunJob, key: bytes, device: str) -> Runs:
    """What does the job's runs in this process. Raises ConflictError where they would not be runs of the same kind."""
    from dpclean.noise.keys import commitment

    if commitment(key) != job.parameters.key_commitment:
        raise ConflictError("the key file is of another job", "put the right key back, or start with --overwrite")
    from dpclean.certificate.parameters import EvasionParameters

    parameters = job.parameters
    if isinstance(parameters, EvasionParameters):
        return _at_test_time(workdir, job, parameters, key, device)
    return _on_features(workdir, parameters, key) if job.settings is None else _on_images(workdir, job, key, device)


def _at_test_time(workdir: Workdir, job: BegunJob, parameters: EvasionParameters, key: bytes, device: str) -> Runs:
    import torch

    from dpclean.certify.run_settings import TestTimeSettings
    from dpclean.certify.runs_on_images import engine
    from dpclean.certify.test_time_inputs import read_points
    from dpclean.certify.test_time_runs import TestTimeRuns, check_settings

    _set_threads(parameters)
    assert isinstance(job.settings, TestTimeSettings)
    settings = replace(job.settings, device=device)
    check_settings(settings, parameters)
    data = read_points(workdir.data, parameters.inputs_digest)
    runs = TestTimeRuns(settings, key, data, parameters.runs)
    _check_engine(parameters, engine(runs.denoiser, torch.get_num_threads()))
    return runs


def _set_threads(parameters: OwnParameters) -> None:
    import torch

    if parameters.engine["threads"] is not None:
        torch.set_num_threads(parameters.engine["threads"])


def _on_features(workdir: Workdir, parameters: JobParameters, key: bytes) -> Runs:
    from dpclean.certify.feature_runs import FeatureRuns, engine, read_data

    _check_engine(parameters, engine())
    digest = parameters.rows_digest if isinstance(parameters.rows_digest, str) else parameters.inputs_digest
    return FeatureRuns(parameters, key, read_data(workdir.data, digest))


def _on_images(workdir: Workdir, job: BegunJob, key: bytes, device: str) -> Runs:
    import torch

    from dpclean.certificate.parameters import JobParameters
    from dpclean.certify.data import read_data
    from dpclean.certify.run_settings import RunSettings
    from dpclean.certify.runs_on_images import check_run_settings, engine

    parameters = job.parameters
    assert isinstance(job.settings, RunSettings) and isinstance(parameters, JobParameters)
    _set_threads(parameters)
    settings = replace(job.settings, device=device)
    check_run_settings(settings, parameters)
    data = read_data(workdir.data, parameters.inputs_digest)
    runs = runs_on_images(settings, parameters.classes, key, workdir.work / "scratch")
    runs.prepare(data)
    _check_engine(parameters, engine(runs.denoiser, torch.get_num_threads()))
    return runs


def runs_on_images(settings: RunSettings, classes: Sequence[str], key: bytes, scratch: Path) -> RunsOnImages:
    """Those of a network, a command or a head, as the settings say. Raises ConflictError where files have changed."""
    from dpclean.certify.head_runs import HeadRuns
    from dpclean.certify.training_runs import TrainingRuns

    if settings.extractor is not None:
        return HeadRuns(settings, classes, key)
    return TrainingRuns(settings, classes, key, scratch)


def _check_engine(parameters: OwnParameters, found: dict[str, Any]) -> None:
    from dpclean.jobs.record import differences

    if differing := differences(parameters.engine, found):
        raise ConflictError(
            f"the job was begun with {differing[0]}; this process would go on with {differing[1]}, and runs must be"
            " alike",
            "go on where it was begun, or start again with --overwrite",
        )


def work(tasks: RunTasks, runs: Runs, order: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> None:
    """Do the runs of an order that nobody else does or has done."""
    for first in range(0, len(order), runs.at_once):
        if stop():
            return
        with ExitStack() as claims:
            mine = [run for run in order[first : first + runs.at_once] if claims.enter_context(tasks.claim(run))]
            if mine:
                _do(tasks, runs, mine)


def _do(tasks: RunTasks, runs: Runs, numbers: Sequence[int]) -> None:
    """Some runs; one that failed is tried once more with the same streams, then it is a vote for nobody."""
    from dpclean.certify.trainer_command import RunFailed

    for last in (False, True):
        try:
            for run, (row, model) in zip(numbers, runs.results(numbers), strict=True):
                tasks.write(run, row, model)
            return
        except (RunFailed, Diverged) as error:
            (failed,) = numbers  # those that can fail come one by one
            if last:
                tasks.give_up(failed, error.message)


def _asked_to_stop() -> bool:
    """Whether the parent has closed this process's standard input."""
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and os.read(0, 1) == b""


if __name__ == "__main__":
    main()
