"""What all runs on images have in common: which images a run takes, and their noise, drawn and taken away anew."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.build import build
from dpclean.certificate.parameters import ExtractorUsed, JobParameters, has_rankings, share_of
from dpclean.certificate.threats import find_threat
from dpclean.certify.data import Data
from dpclean.certify.run_settings import NoiseSettings, RunSettings
from dpclean.certify.runs import Ballot, Result, for_nobody
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.device import has_bf16
from dpclean.errors import ConflictError
from dpclean.jobs.command import Command
from dpclean.noise.membership import members

MID_GREY = 128  # what an image becomes whose prediction is not finite: post-processing, as D may not lose an image


class RunsOnImages(ABC):
    """Runs whose images are noised and denoised for them. Nothing of a run is left for the next one: noise is
    addressed by the run's number.
    """

    at_once = 1
    data: Data

    def __init__(self, settings: RunSettings, classes: Sequence[str], key: bytes) -> None:
        self.settings = settings
        self.key = key
        self.seconds: dict[str, float] = {}  # spent in the parts of the runs so far
        self.denoiser = load_denoiser(settings)
        self.noises_points = find_threat(settings.threat).noises_points
        self._ranked = len(classes) if settings.rankings else 0

    @abstractmethod
    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """See Runs."""

    def prepare(self, data: Data) -> None:
        """Raw pixels stay on the device from run to run; on a CPU these are views.

        Raises InputError for an image that the denoiser does not take: no run may fail by which images it took.
        """
        for index, image in zip(data.indices.tolist(), data.train, strict=True):
            self.denoiser.check_channels(index, image.shape[2])
        self.data = data
        self._train, self._points = self._on_device(data.train), self._on_device(data.points)

    def training_images(self, number: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """What run 1, 2, ... trains on, in its order, after noise and denoising; and the labels of these."""
        begun = time.perf_counter()
        taken = self._taken(number)
        # in a part noise belongs to places: where another part gains an image, indices move
        addresses = self.data.indices[taken] if self.data.division is None else np.arange(len(taken))
        images = self._sanitized(addresses, [self._train[place] for place in taken], number, test=False)
        self._spent("noise and denoise", begun)
        return images, self.data.labels[taken]

    def points(self, number: int) -> list[NDArray[np.uint8]]:
        """The points that a run votes on, noised where the threat says so."""
        if not self.noises_points:
            return self.data.points
        begun = time.perf_counter()
        images = self._sanitized(self.data.point_indices, self._points, number, test=True)
        self._spent("noise and denoise the test points", begun)
        return images

    def _for_nobody(self) -> Ballot:
        return for_nobody(len(self.data.points), self._ranked)

    def _taken(self, number: int) -> NDArray[np.int64]:
        """The places in D of the images that a run takes: all, a random share by index, or a part in its order."""
        if self.data.division is not None:
            return self.data.division.part(number - 1)
        indices = self.data.indices
        if self.settings.share is None:
            return np.arange(len(indices))
        inside = members(self.key, number, self.settings.share, int(indices.max()) + 1)
        return np.flatnonzero(np.isin(indices, inside))

    def _spent(self, part: str, begun: float) -> float:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - begun
        return now

    def _sanitized(
        self, indices: NDArray[np.int64], images: Sequence[Tensor], run: int, *, test: bool
    ) -> list[NDArray[np.uint8]]:
        """The images after noise and denoising, in their order: of one run alone, as batches are of what comes."""
        pairs: Iterable[tuple[int, Tensor]] = zip(indices.tolist(), images, strict=True)
        results = {r.index: r for r in self.denoiser.denoise(pairs, key=self.key, run=run, test=test)}
        ordered = [results[index] for index in indices.tolist()]
        return [r.pixels if r.finite else np.full_like(r.pixels, MID_GREY) for r in ordered]

    def _on_device(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        device = self.denoiser.device
        if device.type == "cuda" and len({image.shape for image in images}) == 1:
            return list(torch.from_numpy(np.stack(images)).to(device))  # one copy instead of one an image
        return [torch.from_numpy(image).to(device) for image in images]


def load_denoiser(settings: NoiseSettings) -> Denoiser:
    """The denoiser of a job at its noise level. Raises ConflictError where its files have changed."""
    files = find_denoiser(settings.denoiser)
    if files.digests() != settings.denoiser_digests:
        raise ConflictError(
            f"the denoiser {files.id!r} is not the one that the job was begun with", "restore its files"
        )
    return Denoiser(
        files,
        float(settings.sigma),
        device=settings.device,
        dtype=settings.dtype,
        method=settings.method,
        batch_pixels=settings.batch_pixels or None,
    )


def check_run_settings(settings: RunSettings, parameters: JobParameters) -> None:
    """Raises ConflictError where a run would be done in another way than the terms of its job say."""
    init, engine, denoiser, extractor = parameters.init, parameters.engine, parameters.denoiser, parameters.extractor
    assert denoiser is not None  # as there are images
    said = {
        "sigma": parameters.sigma,
        "denoiser_digests": denoiser.digests,
        "method": denoiser.method,
        "dtype": engine["dtype"],
        "batch_pixels": engine["batch_pixels"],
        "threat": parameters.threat,
        "recipe": parameters.recipe,
        "size": parameters.size,
        "init_digest": init.digest if init else None,
        "trainer": parameters.trainer,
        "trainer_files": parameters.trainer_files,
        "run_timeout": parameters.run_timeout,
        "kind": parameters.raw.kind,
        "keep_models": parameters.keep_models,
        "share": share_of(parameters),
        "rankings": has_rankings(parameters),
        "extractor_digest": extractor.digest if isinstance(extractor, ExtractorUsed) else None,
    }
    if settings.trainer is not None:
        settings = replace(settings, trainer=Command(settings.trainer, "--trainer").spelled())
    if said["run_timeout"] is None:
        del said["run_timeout"]
    check_said(settings, said)


def check_said(settings: NoiseSettings, said: Mapping[str, Any]) -> None:
    """Raises ConflictError where a setting is not what is said of it."""
    for name, wanted in said.items():
        if (found := getattr(settings, name)) != wanted:
            raise ConflictError(
                f"runs would be done with {name.replace('_', '-')} {found}, the job was begun with {wanted}",
                "start again with --overwrite",
            )


def engine(denoiser: Denoiser, threads: int) -> dict[str, Any]:
    """What runs must have in common to be identically distributed: device kind, type, shapes, threads, versions."""
    return {
        **denoiser.engine,
        "bf16": has_bf16(denoiser.device),  # else training is in float32
        "threads": threads if denoiser.device.type == "cpu" else None,
        "versions": {
            "dpclean": build(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "numpy": np.__version__,
        },
    }
