"""One trial: poisons are made, planted in a copy, and victims learn from it behind each defence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack
from dpclean.audit.attacks.craft import Crafted, craft
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences.defence import Check, Defence
from dpclean.audit.trials import Trial
from dpclean.audit.victims.heads import HEADS, Head
from dpclean.data.dataset import Images
from dpclean.train.extractor import Extractor

BLOCK = 512  # images whose rows are made between two looks for a signal


class Crafting(msgspec.Struct, frozen=True):
    """How poisons were made. crafted_for: the sigma that the attacker knows of, None where he knows of no defence.

    Distances are of the mean of the poisons' features from the target's, as a share of its length, as the attacker
    sees them.
    """

    crafted_for: float | None
    seconds: float
    steps: int
    distance_before: float
    distance_after: float


class Verdict(msgspec.Struct, frozen=True):
    """What two victims say of the target: one that learned from the poisons, and the control from the images as they
    were; classes by place. accuracy: right answers on the test images, as a share.
    """

    crafted_for: float | None
    defence: str
    head: str
    poisoned: int
    control: int
    poisoned_accuracy: float
    control_accuracy: float


class Outcome(msgspec.Struct, frozen=True):
    """All that a trial has shown."""

    trial: Trial
    craftings: list[Crafting]
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Foe:
    """An attacker: what he takes the victim for, and the defences that he is tried against."""

    crafted_for: float | None
    surrogate: Surrogate
    defences: Sequence[Defence]


class Experiment:
    """All trials on one data set. The rows of its images behind each defence are made once, with one draw of noise.

    Of a trial only the poisons, and for the control the images that they were made of, get noise of their own, the
    same for both. So trials share the noise of the other images, and are not independent in this.
    """

    def __init__(
        self, raw: Images, test: Images, extractor: Extractor, trials: Sequence[Trial], attack: Attack, eps: int
    ) -> None:
        self.raw, self.test, self.extractor, self.trials = raw, test, extractor, trials
        self.attack, self.eps = attack, eps
        self._pools: dict[str, NDArray[np.float32]] = {}
        self._points = np.zeros((0, 0), np.float32)

    def prepare(self, defences: Sequence[Defence], check: Check) -> None:
        """The rows of the test images, and of RAW behind each defence."""
        self._points = self.rows(self.test.pixels, check)
        for defence in defences:
            places = range(len(self.raw))
            self._pools[defence.label] = self.rows(self.defended(defence, self.raw.pixels, places, 0, check), check)

    def crafted(self, trial: Trial, foe: Foe, check: Check, most_steps: int | None = None) -> tuple[Crafted, Crafting]:
        """The poisons of an attacker."""
        begun = time.monotonic()
        found = craft(
            self.attack,
            foe.surrogate,
            [self.raw.pixels[place] for place in trial.bases],
            self.test.pixels[trial.target],
            int(self.test.labels[trial.target]),
            eps=self.eps,
            most_steps=most_steps or foe.surrogate.most_steps,
            on_step=check,
        )
        seconds = round(time.monotonic() - begun, 3)
        before, after = round(found.distance_before, 4), round(found.distance_after, 4)
        return found, Crafting(foe.crafted_for, seconds, found.steps, before, after)

    def verdicts(
        self, number: int, trial: Trial, foe: Foe, poisons: Sequence[NDArray[np.uint8]], check: Check
    ) -> list[Verdict]:
        """What victims say, one of each kind of head behind each defence. number: of the trial, from 1."""
        bases = [self.raw.pixels[place] for place in trial.bases]
        found = []
        for defence in foe.defences:
            poisoned, control = (
                self._planted(defence, trial, self.defended(defence, images, trial.bases, number, check))
                for images in (poisons, bases)
            )
            for head in HEADS.values():
                check()
                said = [self._said(defence, head, rows) for rows in (poisoned, control)]
                places = [int(answers[trial.target]) for answers in said]
                shares = [round(float((answers == self.test.labels).mean()), 6) for answers in said]
                found.append(Verdict(foe.crafted_for, defence.label, head.name, *places, *shares))
        return found

    def defended(
        self,
        defence: Defence,
        images: Sequence[NDArray[np.uint8]],
        places: Sequence[int],
        number: int,
        check: Check = lambda: None,
    ) -> list[NDArray[np.uint8]]:
        """Images behind a defence. places: in RAW. number: of the trial whose noise they get."""
        indices = self.raw.indices[np.asarray(places, np.int64)].tolist()
        return defence.apply(images, indices=indices, run=number, check=check)

    def _planted(self, defence: Defence, trial: Trial, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows = self._pools[defence.label].copy()
        rows[trial.bases] = self.extractor.features(list(images))
        return rows

    def _said(self, defence: Defence, head: Head, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        kept, labels = defence.kept(rows, self.raw.labels), self.raw.labels
        return head.fit(rows[kept], labels[kept], len(self.raw.classes)).predict(self._points)

    def rows(self, images: Sequence[NDArray[np.uint8]], check: Check = lambda: None) -> NDArray[np.float32]:
        """float32 [N,D] of images [H,W,C]."""
        blocks = []
        for start in range(0, len(images), BLOCK):
            check()
            blocks.append(self.extractor.features(list(images[start : start + BLOCK])))
        return np.concatenate(blocks)
