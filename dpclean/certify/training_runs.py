"""Training runs: noise, denoise, train, predict. Network and denoiser are built once and used for every run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from dpclean.build import build
from dpclean.certificate.parameters import JobParameters, has_rankings, share_of
from dpclean.certificate.threats import find_threat
from dpclean.certify.data import Data
from dpclean.certify.run_settings import FEWEST, RunSettings, recipe_of
from dpclean.certify.runs import Ballot, Result, ballot_of, for_nobody
from dpclean.certify.trainer_command import CommandTrainer, RunCutOff
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.device import has_bf16
from dpclean.errors import ConflictError, Diverged, SetupError
from dpclean.noise.keys import run_seed
from dpclean.noise.membership import members
from dpclean.train.images import prepare
from dpclean.train.init import find_init
from dpclean.train.recipes import Recipe
from dpclean.train.trainer import Trainer

MID_GREY = 128  # what an image becomes whose prediction is not finite: post-processing, as D may not lose an image


class TrainingRuns:
    """Runs that train a model each on a copy of the training data that was noised and denoised for it.

    Nothing of a run is left for the next one: weights are reset, noise is addressed by the run's number.
    """

    at_once = 1
    data: Data

    def __init__(self, settings: RunSettings, classes: Sequence[str], key: bytes, scratch: Path):
        self.settings = settings
        self.key = key
        self.seconds: dict[str, float] = {}  # spent in the parts of the runs so far
        self.denoiser = load_denoiser(settings)
        self._has_model = False  # the last run trained one
        self._ranked = len(classes) if settings.rankings else 0
        self._trainer: Trainer | None = None
        self._command: CommandTrainer | None = None
        if settings.trainer is not None:
            self._command = CommandTrainer(
                settings.trainer, settings.trainer_files or {}, settings.run_timeout, classes, scratch, settings.kind
            )
        else:
            self._trainer = make_trainer(settings, len(classes), self.denoiser.device)

    def prepare(self, data: Data) -> None:
        """Raw pixels stay on the device from run to run; on a CPU these are views.

        Raises InputError for an image that the denoiser does not take: no run may fail by which images it took.
        """
        for index, image in zip(data.indices.tolist(), data.train, strict=True):
            self.denoiser.check_channels(index, image.shape[2])
        self.data = data
        self._train, self._points = self._on_device(data.train), self._on_device(data.points)
        if self._trainer is not None:
            self._prepared = self._tensor(data.points)

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """See Runs."""
        for number in numbers:
            yield self.cast(number), self.model()

    @property
    def _of_some(self) -> bool:
        """Whether a run takes some of the images, and is itself decided by which."""
        return self.settings.share is not None or self.data.division is not None

    def cast(self, number: int) -> Ballot:
        """The ballot of run 1, 2, ... Raises Diverged or RunFailed where there is none."""
        begun = time.perf_counter()
        self._has_model = False
        taken = self._taken(number)
        if len(taken) < FEWEST:  # part of what a run is, not a failure: nothing is drawn again
            return for_nobody(len(self.data.points), self._ranked)
        images = [self._train[place] for place in taken]
        # in a part noise belongs to places: where another part gains an image, indices move
        addresses = self.data.indices[taken] if self.data.division is None else np.arange(len(taken))
        train = self._sanitized(addresses, images, number, test=False)
        labels = self.data.labels[taken]
        begun = self._spent("noise and denoise", begun)
        noised_test = find_threat(self.settings.threat).noises_points
        if noised_test:
            points = self._sanitized(self.data.point_indices, self._points, number, test=True)
            begun = self._spent("noise and denoise the test points", begun)
        else:
            points = self.data.points
        if self._command is not None:
            row = self._commanded(self._command, number, train, labels, points)
            self._spent("train and predict", begun)
            return row
        assert self._trainer is not None
        known = torch.from_numpy(labels).to(self.denoiser.device)
        try:
            self._trainer.fit(self._tensor(train), known, seed=run_seed(self.key, "train", number))
        except Diverged:
            if not self._of_some:
                raise
            return for_nobody(len(self.data.points), self._ranked)  # by what it took, so no failure
        self._has_model = True
        begun = self._spent("train", begun)
        ballot = self._voted(self._trainer, self._tensor(points) if noised_test else self._prepared)
        self._spent("predict", begun)
        return ballot

    def _voted(self, trainer: Trainer, points: Tensor) -> Ballot:
        if self.data.division is None:
            return trainer.predict(points).cpu().numpy().astype(np.int32)
        return ballot_of(trainer.scores(points).numpy(), ranked=self.settings.rankings)

    def _commanded(
        self,
        command: CommandTrainer,
        number: int,
        train: Sequence[NDArray[np.uint8]],
        labels: NDArray[np.int64],
        points: Sequence[NDArray[np.uint8]],
    ) -> NDArray[np.int32]:
        """What the command votes. Raises SetupError for what may be no vote where a run takes some of the images."""
        try:
            return command.run(number, train, labels, points)
        except RunCutOff as error:
            if not self._of_some:
                raise
            raise SetupError(
                f"{error.message}, and no vote may depend on anything but the images that the run took",
                f"{error.remedy}; the same command does the run again",
            ) from error

    def model(self) -> bytes | None:
        """What the last run trained, as a safetensors file; None where models are not kept, or it trained none."""
        if not self.settings.keep_models or not self._has_model:
            return None
        assert self._trainer is not None
        return save(self._trainer.state_dict())

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
        """The images after noise and denoising, in their order."""
        pairs: Iterable[tuple[int, Tensor]] = zip(indices.tolist(), images, strict=True)
        results = {r.index: r for r in self.denoiser.denoise(pairs, key=self.key, run=run, test=test)}
        ordered = [results[index] for index in indices.tolist()]
        return [r.pixels if r.finite else np.full_like(r.pixels, MID_GREY) for r in ordered]

    def _on_device(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        device = self.denoiser.device
        if device.type == "cuda" and len({image.shape for image in images}) == 1:
            return list(torch.from_numpy(np.stack(images)).to(device))  # one copy instead of one an image
        return [torch.from_numpy(image).to(device) for image in images]

    def _tensor(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return prepare(images, self.settings.size).to(self.denoiser.device)


def load_denoiser(settings: RunSettings) -> Denoiser:
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
    init, engine, denoiser = parameters.init, parameters.engine, parameters.denoiser
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
    }
    for name, wanted in said.items():
        found = getattr(settings, name)
        if name == "trainer" and found is not None:
            found = shlex.join(shlex.split(found))
        if found != wanted and not (name == "run_timeout" and wanted is None):
            raise ConflictError(
                f"runs would be done with {name.replace('_', '-')} {found}, the job was begun with {wanted}",
                "start again with --overwrite",
            )


def make_trainer(settings: RunSettings, classes: int, device: torch.device) -> Trainer:
    """The network of a job, on the device where it is trained."""
    assert settings.recipe is not None and settings.size is not None
    recipe = recipe_of(settings.recipe)
    return Trainer(recipe, classes, size=settings.size, device=device, init=_init(settings, recipe))


def _init(settings: RunSettings, recipe: Recipe) -> dict[str, Tensor] | None:
    if settings.init is None:
        return None
    init = find_init(settings.init, recipe)
    if init.digest != settings.init_digest:
        raise ConflictError(f"the weights {settings.init!r} are not those that the job was begun with", "restore them")
    return init.weights


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
