"""Noise that a network does not mind, as large as may be, and random noise on top: it drowns what poisons need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpclean.audit.attacks.perturbation import Perturbation
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences.defence import Check, Defence, Filtered, Pixels, Setting
from dpclean.audit.victims.scratch import Scratch, Training
from dpclean.audit.victims.victim import Learner, Seen, Victim
from dpclean.data.dataset import Images
from dpclean.train.trainer import number_of

BOUND, RANDOM = 16, 8  # grey levels: of the friendly noise, and of the random one, either way
STEPS, RATE = 30, 1 / 8  # of the ascent; of the bound, its first steps
BATCH, LOOK = 64, 32  # images whose noise is found together; to tell from how long all take


class Friends(Defence):
    name = "friends"
    paper = (
        "Liu et al. 2022, 'Friendly Noise against Adversarial Noise: A Powerful Defense against Data Poisoning Attacks'"
    )
    about = (
        f"adds to each image noise of up to {BOUND} grey levels, as large as the answer of a network that learned from"
        f" all of them lets it be, and {RANDOM} grey levels up or down at random, anew in every epoch of a victim from"
        " scratch, once for a frozen one; the descent is Adam"
    )
    together = True
    looks_inside = True

    def __init__(self, victim: Victim, key: bytes) -> None:
        self._victim, self._seed = victim, int.from_bytes(key[:8], "little")

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        assert setting.victim is not None
        return [cls(setting.victim, setting.key)]

    def filtered(
        self, images: Pixels, labels: NDArray[np.int64], classes: Sequence[str], check: Check = lambda: None
    ) -> Filtered:
        places = np.arange(len(images))
        names = [""] * len(images)
        whole = Images(names, list(images), labels, places, labels, tuple(classes), len(images), [], "folder", False)
        surrogate = Surrogate(self._victim, whole, seed=number_of(self._seed, "friends"), check=check)
        found = list[NDArray[np.uint8]]()
        for start in range(0, len(images), BATCH):
            found += self._friendly(images[start : start + BATCH], surrogate, start, check)
        if not isinstance(self._victim, Scratch):  # which gets it anew in every epoch
            random = np.random.default_rng([self._seed, 1])
            found = [noised(image, random) for image in found]
        return Filtered(found, np.ones(len(images), np.bool_))

    def _friendly(self, images: Pixels, surrogate: Surrogate, start: int, check: Check) -> list[NDArray[np.uint8]]:
        """Images changed as much as may be, their answers as little: the divergence of these from what they were is
        weighed against the mean squared change, where pixel values go from 0 to 1.
        """
        changed = Perturbation(images, BOUND, surrogate.device)
        with torch.no_grad():
            before = changed.seen_by(surrogate.scores).log_softmax(1)
        changed.scatter(torch.Generator().manual_seed(number_of(self._seed, "friendly", start)))
        optimizer = torch.optim.Adam(changed.changes, lr=RATE * BOUND)
        for step in range(STEPS):
            check()
            answers = changed.seen_by(surrogate.scores).log_softmax(1)
            minded = functional.kl_div(answers, before, reduction="sum", log_target=True)
            size = torch.stack([change.square().mean((1, 2, 3)).sum() for change in changed.changes]).sum() / 255**2
            optimizer.zero_grad()
            (minded - size).backward()
            for group in optimizer.param_groups:
                group["lr"] = RATE * BOUND * (1 - step / STEPS)
            optimizer.step()
            changed.clip()
        return changed.pixels()

    def learners(self, images: Images) -> Sequence[Learner]:
        return [Noised(self._victim)] if isinstance(self._victim, Scratch) else ()

    def seconds(self, images: Images, seen: Seen) -> float:
        some = images.take(np.arange(len(images)) % max(1, len(images) // LOOK) == 0)
        begun = time.monotonic()
        self.filtered(some.pixels, some.labels, some.classes)
        return (time.monotonic() - begun) / len(some) * len(images)


class Noised(Training):
    """The same recipe on images with random noise of their own in every epoch."""

    def __init__(self, victim: Scratch) -> None:
        super().__init__(victim.recipe, victim.classes, victim.size, victim.device, victim.training.init)
        self.about = f"{victim.training.about}, the images {RANDOM} grey levels up or down at random in every epoch"

    def shown(self, images: Tensor, seed: int) -> Tensor | Callable[[int], Tensor]:
        pixels = images.numpy()

        def of_epoch(number: int) -> Tensor:
            return torch.from_numpy(noised(pixels, np.random.default_rng([seed, 2, number])))

        return of_epoch


def noised(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Images of any shape with noise on each pixel value."""
    signs = 2 * random.integers(0, 2, pixels.shape, np.int16) - 1
    found: NDArray[np.uint8] = (pixels + RANDOM * signs).clip(0, 255).astype(np.uint8)
    return found
