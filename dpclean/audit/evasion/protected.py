"""A model with or without a purifier before it: as one who attacks it sees it, and as it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.audit.attacks.sight import differentiable as through
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.evasion.pgd import Look
from dpclean.audit.victims.victim import Check, never
from dpclean.certificate.parameters import EvasionParameters
from dpclean.certify.run_settings import TestTimeSettings
from dpclean.certify.test_time_inputs import PointData
from dpclean.certify.test_time_runs import TestTimeRuns
from dpclean.denoise.differentiable import DifferentiableDenoiser
from dpclean.train.fixed_model import FixedModel
from dpclean.train.images import prepare, resized

Pixels = NDArray[np.uint8]  # images [N,H,W,C]
Numbers = NDArray[np.int64]  # [N]: the place of each image in its listing, by which its noise is drawn
Answers = NDArray[np.int32]  # classes [votes,N], -1 for none: what the model says of each image at each draw
WIDE = 1 << 32  # runs that have noise of their own


def differentiable(model: FixedModel, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Logits float32 [N,classes] of grey levels [N,C,H,W], as the model predicts, but without rounding and for
    gradients.
    """
    exact = replace(model, recipe=replace(model.recipe, precision="fp32"))
    trainer = exact.trainer(device)
    trainer.network.requires_grad_(False)

    def logits(levels: Tensor) -> Tensor:
        sized = levels if levels.shape[2:] == (model.size, model.size) else resized(levels, model.size)
        sized = sized.to(device).expand(-1, 3, -1, -1)
        found = trainer.differentiable_logits(sized)
        return (found + trainer.differentiable_logits(sized.flip(3))) / 2 if model.recipe.mirror else found

    return logits


class Protected(ABC):
    """label: of what stands before the model, as a table calls it. draws, votes: of its noise, for a gradient and for
    what it says of an image.
    """

    label: str
    draws: int
    votes: int

    @property
    def evaluations(self) -> int:
        """Of a denoiser's network for a draw."""
        return 0

    @abstractmethod
    def look(self, indices: Numbers) -> Look:
        """How an attacker sees these images, by noise of his own."""

    @abstractmethod
    def answers(self, pixels: Pixels, indices: Numbers, check: Check = never) -> Answers:
        """By noise that no attacker sees, the same for an image and for every changed one."""

    def purified(self, pixels: Pixels, indices: Numbers) -> Pixels:
        """What the model gets at the first draw."""
        return pixels


class Alone(Protected):
    """The model without a purifier."""

    label, draws, votes = "none", 1, 1

    def __init__(self, model: FixedModel, device: torch.device) -> None:
        self._model, self._device = model, device

    @cached_property
    def _logits(self) -> Callable[[Tensor], Tensor]:
        return differentiable(self._model, self._device)

    def look(self, indices: Numbers) -> Look:
        return lambda levels, draw: self._logits(levels)

    def answers(self, pixels: Pixels, indices: Numbers, check: Check = never) -> Answers:
        trainer = self._model.trainer(self._device)
        found = trainer.predict(prepare(list(pixels), self._model.size))
        return found.numpy().astype(np.int32)[None]


class Purified(Protected):
    """The model behind noise and denoiser: what `certify --threat evasion` asks in a run. terms: of such a job."""

    def __init__(
        self,
        defence: Sanitized,
        alone: Alone,
        terms: EvasionParameters,
        settings: TestTimeSettings,
        *,
        draws: int,
        votes: int,
        key: bytes,
        attackers_key: bytes,
    ) -> None:
        self.label, self.draws, self.votes, self.settings = defence.label, draws, votes, settings
        self.defence, self.terms, self._alone = defence, terms, alone
        self._key, self._attackers_key = key, attackers_key

    @property
    def evaluations(self) -> int:
        return self.defence.denoiser.evaluations_a_sample

    @cached_property
    def _denoiser(self) -> DifferentiableDenoiser:
        return through(self.defence.denoiser)

    def look(self, indices: Numbers) -> Look:
        def seen(levels: Tensor, draw: int) -> Tensor:
            key, run = self._attackers_key, draw % WIDE
            clean = self._denoiser(levels / 255, key=key, run=run, indices=indices, test=True)
            return self._alone.look(indices)(255 * clean, 0)

        return seen

    def answers(self, pixels: Pixels, indices: Numbers, check: Check = never) -> Answers:
        runs = TestTimeRuns(self.settings, self._key, PointData(pixels, indices), self.votes)
        found = list[NDArray[np.int32]]()
        for start in range(1, self.votes + 1, runs.at_once):
            check()
            numbers: Sequence[int] = range(start, min(start + runs.at_once, self.votes + 1))
            found += [np.asarray(ballot, np.int32) for ballot, _ in runs.results(numbers)]
        return np.stack(found)

    def purified(self, pixels: Pixels, indices: Numbers) -> Pixels:
        pairs = list(zip(indices.tolist(), pixels, strict=True))
        found = self.defence.denoiser.denoise(pairs, key=self._key, run=1, test=True)
        by_index = {one.index: one.pixels for one in found}
        return np.stack([by_index[index] for index in indices.tolist()])
