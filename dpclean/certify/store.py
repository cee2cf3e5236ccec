"""The folder of a job while it runs: its terms, the pixels in memory of every worker, the votes that are in.

work/job.json       terms, and how a run is done     work/runs/     a file a run (units.py)
work/data.safetensors   D and the test points        work/scratch/  copies handed to a trainer command
models/             with --keep-models
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from dpclean.certify.method import Method, made_of
from dpclean.certify.subject import Subject, digest_of
from dpclean.certify.units import Units
from dpclean.certify.votes import job_id
from dpclean.errors import InputError
from dpclean.jobs.durable import write_durably
from dpclean.jobs.manifest import ANCESTRY_NAME
from dpclean.train.dataset import Images

WORK = "work"
MODELS = "models"
JOB = "job.json"
DATA = "data.safetensors"


@dataclass(frozen=True)
class Data:
    """D and the test points as a worker holds them: pixels uint8 [H,W,C] each; labels and indices int64."""

    train: list[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    points: list[NDArray[np.uint8]]
    point_indices: NDArray[np.int64]


@dataclass(frozen=True)
class Store:
    """One job's folder: the partial folder beside OUT."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / WORK

    @property
    def models(self) -> Path:
        return self.folder / MODELS

    def begun(self) -> dict[str, Any] | None:
        """What job.json holds; None before the job was begun. Raises InputError where it is damaged."""
        try:
            job = json.loads((self.work / JOB).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(f"{str(self.work / JOB)!r} is damaged: {error}", "start again with --overwrite") from error
        assert isinstance(job, dict)
        return job

    def begin(self, terms: dict[str, Any], method: Method, data_sha256: str, subject: Subject) -> None:
        """Write job.json: from here on the job is begun."""
        self.units(terms).make_folders()
        if method.keep_models:
            self.models.mkdir(exist_ok=True)
            write_durably(self.models / ANCESTRY_NAME, made_of(subject, method).dump())
        job = {"terms": terms, "method": asdict(method), "data_sha256": data_sha256}
        write_durably(self.work / JOB, json.dumps(job).encode() + b"\n")

    def units(self, terms: dict[str, Any]) -> Units:
        """The runs of the job."""
        return Units(self.work, job_id(terms), terms["points"])

    def write_data(self, subject: Subject) -> str:
        """Put D and the points where workers find them; returns the digest that each of them checks."""
        self.work.mkdir(parents=True, exist_ok=True)
        tensors = {**_packed("train", subject.train), **_packed("points", subject.points)}
        write_durably(self.work / DATA, save(tensors))
        return data_digest(subject.train.pixels, subject.points.pixels)

    def read_data(self, data_sha256: str) -> Data:
        """What write_data wrote. Raises InputError where the bytes in memory are not those the job was begun with."""
        tensors = load_file(self.work / DATA)
        train, points = _unpacked(tensors, "train"), _unpacked(tensors, "points")
        if data_digest(train, points) != data_sha256:
            raise InputError(
                "the pixels in memory are not those that the job was begun with", "start again with --overwrite"
            )
        return Data(train, tensors["train.labels"], tensors["train.indices"], points, tensors["points.indices"])


def data_digest(train: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.uint8]]) -> str:
    """One digest over the pixels of D and of the test points."""
    return digest_of([*train, *points])


def _packed(name: str, images: Images) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.pixels": np.concatenate([image.ravel() for image in images.pixels]),
        f"{name}.shapes": np.array([image.shape for image in images.pixels], np.int64),
        f"{name}.labels": images.labels,
        f"{name}.indices": images.indices,
    }


def _unpacked(tensors: dict[str, NDArray[Any]], name: str) -> list[NDArray[np.uint8]]:
    shapes = tensors[f"{name}.shapes"]
    ends = np.cumsum(shapes.prod(axis=1))
    flat = tensors[f"{name}.pixels"]
    return [flat[end - np.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]
