"""Training runs: noise, denoise, train, predict. Network and denoiser are built once and used for every run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from dpclean.certify.data import Data
from dpclean.certify.run_settings import FEWEST, RunSettings, recipe_of
from dpclean.certify.runs import Ballot, Result, ballot_of
from dpclean.certify.runs_on_images import RunsOnImages
from dpclean.certify.trainer_command import CommandTrainer, RunCutOff
from dpclean.errors import ConflictError, Diverged, SetupError
from dpclean.noise.keys import run_seed
from dpclean.train.images import prepare
from dpclean.train.init import find_init
from dpclean.train.recipes import Recipe
from dpclean.train.trainer import Trainer


class TrainingRuns(RunsOnImages):
    """Runs that train a network each, or have a command do it, on a copy of the training data that was noised and
    denoised for it. Weights are reset before each.
    """

    def __init__(self, settings: RunSettings, classes: Sequence[str], key: bytes, scratch: Path):
        super().__init__(settings, classes, key)
        self._has_model = False  # the last run trained one
        self._trainer: Trainer | None = None
        self._command: CommandTrainer | None = None
        if settings.trainer is not None:
            self._command = CommandTrainer(
                settings.trainer, settings.trainer_files or {}, settings.run_timeout, classes, scratch, settings.kind,
                ranked=settings.rankings,
            )  # fmt: skip
        else:
            self._trainer = make_trainer(settings, len(classes), self.denoiser.device)

    def prepare(self, data: Data) -> None:
        """See RunsOnImages."""
        super().prepare(data)
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
        self._has_model = False
        train, labels = self.training_images(number)
        if len(train) < FEWEST:  # part of what a run is, not a failure: nothing is drawn again
            return self._for_nobody()
        points = self.points(number)
        begun = time.perf_counter()
        if self._command is not None:
            try:
                return self._commanded(self._command, number, train, labels, points)
            finally:
                self._spent("train and predict", begun)
        assert self._trainer is not None
        known = torch.from_numpy(labels).to(self.denoiser.device)
        try:
            self._trainer.fit(self._tensor(train), known, seed=run_seed(self.key, "train", number))
        except Diverged:
            if not self._of_some:
                raise
            self._spent("train", begun)
            return self._for_nobody()  # by what it took, so no failure
        self._has_model = True
        begun = self._spent("train", begun)
        ballot = self._voted(self._trainer, self._tensor(points) if self.noises_points else self._prepared)
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
    ) -> Ballot:
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

    def _tensor(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return prepare(images, self.settings.size).to(self.denoiser.device)


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
