"""A head learned with differential privacy: no image may move it much, so few poisons may not either."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.victims.victim import Check, Classes, Learner, Seen, never
from dpclean.certify.extracted import as_rows
from dpclean.data.dataset import Images
from dpclean.errors import SetupError, UsageError
from dpclean.train.trainer import number_of

EPOCHS, LOTS = 20, 10  # and steps in each: a step takes each image with a probability of one by that
RATE, CLIP = 2.0, 1.0  # of the descent; the length that the gradient of an image is cut to
DELTA, SHARE = 1e-5, 0.5  # delta is the first, or the second divided by the number of images where that is less
LARGEST = 1000.0  # epsilon, beyond which there is no privacy to speak of


@dataclass(frozen=True)
class Private:
    """A head that has learned: (a row brought to length 1, 1) times weights float32 [D+1,classes] are its scores."""

    weights: NDArray[np.float32]

    def predict(self, points: Seen) -> Classes:
        """The class int64 [P] of each point [P,D]."""
        rows = as_rows(points)
        found: Classes = (rows @ self.weights[:-1] + self.weights[-1]).argmax(1)
        return found


class PrivateLearner:
    name = "dp-sgd"
    about = (
        f"logistic regression on features of length 1, {EPOCHS} epochs of stochastic gradient descent with gradients"
        f" cut to length {CLIP:g} and noise on them"
    )

    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def fit(self, seen: Seen, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Private:
        rows, wanted = torch.from_numpy(as_rows(seen)), torch.from_numpy(labels)
        head = nn.Linear(rows.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        draws = torch.Generator().manual_seed(number_of(seed, "dp-sgd", "images"))
        batches = DataLoader(TensorDataset(rows, wanted), batch_size=math.ceil(len(rows) / LOTS), generator=draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its noise is drawn from a seed here, and it warns of that
            model, optimizer, batches = (
                import_module("opacus")
                .PrivacyEngine()
                .make_private(
                    module=head,
                    optimizer=torch.optim.SGD(head.parameters(), lr=RATE),
                    data_loader=batches,
                    noise_multiplier=noise_of(self._epsilon, 1 / len(batches), len(rows)),
                    max_grad_norm=CLIP,
                    noise_generator=torch.Generator().manual_seed(number_of(seed, "dp-sgd", "noise")),
                )
            )
            for _ in range(EPOCHS):
                check()
                for some, truth in batches:
                    optimizer.zero_grad()
                    functional.cross_entropy(model(some), truth).backward()
                    optimizer.step()
        return Private(torch.cat([head.weight.T, head.bias[None]]).detach().numpy())


@lru_cache
def noise_of(epsilon: float, rate: float, images: int) -> float:
    """The size of the noise, for gradients of length 1, with which so many epochs are private by epsilon and delta."""
    utils = import_module("opacus.accountants.utils")
    delta = min(DELTA, SHARE / images)
    return float(
        utils.get_noise_multiplier(target_epsilon=epsilon, target_delta=delta, sample_rate=rate, epochs=EPOCHS)
    )


class DpSgd(Defence):
    name = "dp-sgd"
    takes = "EPSILON"
    paper = (
        "Abadi et al. 2016, 'Deep Learning with Differential Privacy'; against poisons Ma et al. 2019, 'Data Poisoning"
        " against Differentially-Private Learners', and Hong et al. 2020, 'On the Effectiveness of Mitigating Data"
        " Poisoning Attacks with Gradient Shaping'; by Opacus"
    )
    about = (
        f"the head learns with differential privacy, by EPSILON and a delta of {DELTA:g} ({SHARE:g} by the number of"
        " images where that is less); what that proves of so many poisons together is little, and nothing is claimed"
    )
    frozen_only = True

    def __init__(self, argument: str) -> None:
        self._argument = argument

    @property
    def label(self) -> str:
        return f"{self.name}:{self._argument}"

    @classmethod
    def check(cls, argument: str) -> None:
        try:
            epsilon = float(argument)
        except ValueError:
            epsilon = math.nan
        if not 0 < epsilon <= LARGEST:
            raise UsageError(
                f"defence {cls.name!r} takes an epsilon above 0 and at most {LARGEST:g}, got {argument!r}",
                f"give it as {cls.name}:8",
            )
        if find_spec("opacus") is None:
            raise SetupError(
                f"defence {cls.name!r} needs Opacus, which is not installed", "pip install 'dpclean[opacus]'"
            )

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(argument)]

    def learners(self, images: Images) -> Sequence[Learner]:
        return [PrivateLearner(float(self._argument))]

    def seconds(self, images: Images, seen: Seen) -> float:
        begun = time.monotonic()
        PrivateLearner(float(self._argument)).fit(seen, images.labels, len(images.classes))
        return time.monotonic() - begun
