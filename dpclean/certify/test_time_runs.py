"""Runs at test time: noise on each test image, denoised, and the vote of one fixed model. Nothing is trained.

All batches have one shape, whatever is in them and however many runs are done together, so that what comes out for an
image depends on the image, its address of noise and constants, and on nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.certificate.parameters import EvasionParameters
from dpclean.certificate.votes import ABSTAIN, first_of
from dpclean.certify.run_settings import TestTimeSettings
from dpclean.certify.runs import Result, ballot_of
from dpclean.certify.runs_on_images import check_said, load_denoiser
from dpclean.certify.test_time_inputs import PointData
from dpclean.denoise.denoiser import Denoised
from dpclean.denoise.winograd import with_fewer_products
from dpclean.errors import ConflictError
from dpclean.jobs.checks import given_path
from dpclean.noise.normal import standard_normal
from dpclean.train.fixed_model import find_model
from dpclean.train.images import prepare
from dpclean.train.trainer import Trainer

MOST_BATCHES = 16  # that are filled before some places of the last stay empty
PORTIONS = 32  # of a job, at least, for several processes to share; but none smaller than a batch
MOST_TOGETHER = 768  # runs: each is claimed by a file that stays open, and a process may usually have 1,024 of these


def check_settings(settings: TestTimeSettings, parameters: EvasionParameters) -> None:
    """Raises ConflictError where a run would be done in another way than the terms of its job say."""
    local = parameters.local_smoothing
    check_said(
        settings,
        {
            "sigma": parameters.sigma,
            "denoiser_digests": parameters.denoiser.digests,
            "method": parameters.denoiser.method,
            "dtype": parameters.engine["dtype"],
            "batch_pixels": parameters.engine["batch_pixels"],
            "model_digest": parameters.model.digest,
            "recipe": parameters.recipe,
            "size": parameters.size,
            "draws": 0 if local is None else local.draws,
            "local_sigma": "0" if local is None else local.sigma,
        },
    )


class TestTimeRuns:
    """The runs of a job at test time in one process; total: how many there are for all that share them.

    Raises ConflictError where model or denoiser are not those that the job was begun with.
    """

    __test__ = False

    def __init__(self, settings: TestTimeSettings, key: bytes, data: PointData, total: int) -> None:
        self.settings = settings
        self.key = key
        self.denoiser = load_denoiser(settings)
        self.trainer = _trainer(settings, self.denoiser.device)
        self.data = data
        self._images = [torch.from_numpy(image) for image in data.pixels]
        self._images = [image.to(self.denoiser.device) for image in self._images]
        self._places = {index: place for place, index in enumerate(data.indices.tolist())}
        for index, image in zip(data.indices.tolist(), self._images, strict=True):
            self.denoiser.check_channels(index, image.shape[2])
        points, height, width = data.pixels.shape[:3]
        self.at_once = together(points, total, self.denoiser.shapes.batch(height, width))

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """Those of runs 1, 2, ..., in the order asked for."""
        ballots = {number: np.full(len(self._images), ABSTAIN, np.int32) for number in numbers}
        images = (
            (number, index, image)
            for number in numbers
            for index, image in zip(self.data.indices.tolist(), self._images, strict=True)
        )
        denoised = self.denoiser.denoise_runs(images, key=self.key, test=True)
        while some := list(itertools.islice(denoised, self.trainer.recipe.predict_batch)):
            for result, vote in zip(some, self.votes(some).tolist(), strict=True):
                if result.finite:  # else the image is lost, and nobody votes
                    ballots[result.run][self._places[result.index]] = vote
        for number in numbers:
            yield ballots[number], None

    def votes(self, some: Sequence[Denoised]) -> NDArray[np.int32]:
        """int32 [N] of denoised images, at most as many as the model takes together."""
        prepared = prepare([result.pixels for result in some], self.trainer.size)
        if not self.settings.draws:
            return first_of(ballot_of(self.trainer.scores(prepared).numpy(), ranked=True))
        pixels = prepared.to(self.trainer.device).float()
        total = torch.zeros(len(some), self.trainer.classes)
        for draw in range(self.settings.draws):
            total += self.trainer.scores(pixels + 255 * float(self.settings.local_sigma) * self._normal(some, draw))
        return first_of(ballot_of(total.numpy(), ranked=True))

    def _normal(self, some: Sequence[Denoised], draw: int) -> Tensor:
        """float32 [N,S,S,3], standard normal: the draw of each image in its run."""
        size = self.trainer.size
        parts = []
        for run, together in itertools.groupby(some, lambda result: result.run):
            indices = np.array([result.index for result in together], np.int64)
            noise = standard_normal(
                (size, size, 3), (0, 0), (size, size),
                device=self.trainer.device, key=self.key, purpose=f"local smoothing/{draw}",
                run=run, indices=indices, test=True,
            )  # fmt: skip
            parts.append(noise.permute(0, 2, 3, 1))
        return torch.cat(parts)


def together(points: int, total: int, batch: int) -> int:
    """How many of so many runs are best done together, to fill batches of so many images."""
    batches = min(MOST_BATCHES, max(1, points * total // (PORTIONS * batch)))
    return max(1, min(MOST_TOGETHER, batches * batch // points))


def _trainer(settings: TestTimeSettings, device: torch.device) -> Trainer:
    model = find_model(settings.model, None if settings.weights is None else given_path(settings.weights))
    if (model.digest, model.recipe.as_dict(), model.size) != (settings.model_digest, settings.recipe, settings.size):
        raise ConflictError(
            f"the model {settings.model!r} is not the one that the job was begun with", "restore its files"
        )
    trainer = model.trainer(device)
    with_fewer_products(trainer.network, trainer.dtype, device)
    return trainer
