"""The folders of a job while it runs: what a run reads, the votes that are in.

work/data.safetensors   D and the test points        work/results/  a file a run (run_tasks.py)
work/scratch/       copies handed to a trainer command    work/models/   with --keep-models, a file a run
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.parameters import (
    EvasionParameters,
    FormError,
    JobParameters,
    OwnParameters,
    counts_images,
    has_rankings,
    keeps_models,
)
from dpclean.certificate.votes import job_id
from dpclean.certify.parameters import whole
from dpclean.certify.run_settings import RunSettings, TestTimeSettings
from dpclean.certify.run_tasks import NO_MODEL, RunTasks
from dpclean.data.ancestry import Ancestry
from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.errors import ConflictError, DifferenceError, InputError
from dpclean.jobs.durable import write_durably
from dpclean.jobs.staging import Staging

KIND = "certify"
MODELS = "models"
DATA = "data.safetensors"
_DAMAGED = "start again with --overwrite"


def model_name(run: int) -> str:
    """The file of a run's model in the folder that is handed over."""
    return f"{run:07d}.safetensors"


def read_model(path: Path, digest: bytes) -> bytes:
    """A kept model. Raises InputError where it is missing, DifferenceError where it is not the one of that digest."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the model {str(path)!r}, which has a vote: {error.strerror}", "restore it, or certify again"
        ) from error
    if hashlib.sha256(model).digest() != digest:
        raise DifferenceError(
            f"{str(path)!r} is not the model that voted in its run: its digest is another",
            "restore it, or certify again",
        )
    return model


@dataclass(frozen=True)
class BegunJob:
    """The parameters of a job that was begun, and how its runs are done."""

    parameters: JobParameters | EvasionParameters
    settings: RunSettings | TestTimeSettings | None  # None: the terms say all of it


@dataclass(frozen=True)
class Workdir:
    """One job's folders, beside OUT."""

    staging: Staging

    @property
    def work(self) -> Path:
        return self.staging.work

    @property
    def data(self) -> Path:
        """D and the test points, where workers find them; each of them checks parameters.inputs_digest."""
        return self.work / DATA

    @property
    def models(self) -> Path:
        return self.staging.partial / MODELS

    def begun(self) -> BegunJob | None:
        """What the job was begun with; None before it was. Raises InputError where that is damaged."""
        record = self.staging.begun()
        if record is None or record.kind != KIND:
            return None
        try:
            parameters = whole(record.parameters, record.found["terms"], record.environment)
            settings = record.found["settings"]
            kind = TestTimeSettings if isinstance(parameters, EvasionParameters) else RunSettings
            return BegunJob(parameters, None if settings is None else kind(**settings))
        except (FormError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{str(self.staging.record)!r} is damaged: {error}", _DAMAGED) from error

    def begin(self, parameters: OwnParameters, ancestry: Callable[[], Ancestry]) -> None:
        """Make the folders, and say what models that are kept will be made of."""
        self.tasks(parameters).make_folders()
        if keeps_models(parameters):
            self.models.mkdir(exist_ok=True)
            write_durably(self.models / ANCESTRY_NAME, ancestry().dump())

    def tasks(self, parameters: OwnParameters, worker: str = "") -> RunTasks:
        """The runs of the job; worker: the name under which this process claims them."""
        return RunTasks(
            self.work,
            job_id(parameters),
            parameters.points,
            keep_models=keeps_models(parameters),
            ranked=len(parameters.classes) if has_rankings(parameters) else 0,
            of_shares=counts_images(parameters),
            worker=worker,
        )

    def attempt(self) -> int:
        """Which attempt the job that is begun here is: 0 without one, at least 1 where its record cannot be read."""
        try:
            job = self.begun()
        except (InputError, ConflictError):
            return 1
        return 0 if job is None else job.parameters.attempt

    def keep_models(self, parameters: OwnParameters, models: NDArray[np.uint8]) -> None:
        """Put the models of the votes that count where they are handed over: models/0000001.safetensors and so on."""
        self.models.mkdir(exist_ok=True)
        tasks = self.tasks(parameters)
        for run, row in enumerate(models, 1):
            target, digest = self.models / model_name(run), row.tobytes()
            if digest == NO_MODEL or target.exists():
                continue
            try:
                tasks.model_path(run, digest).rename(target)
            except FileNotFoundError as error:
                raise InputError(f"the model of run {run} is gone", "start again with --overwrite") from error
