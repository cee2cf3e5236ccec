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
from dpclean.audit.victims.victim import Learner, Seen, Victim
from dpclean.data.dataset import Images
from dpclean.train.trainer import number_of


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
    were; classes by place. head: how both learned. accuracy: right answers on the test images, as a share.
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
    """All trials on one data set. Its images behind each defence are made and read once, with one draw of noise.

    Of a trial only the poisons, and for the control the images that they were made of, get noise of their own, the
    same for both. So trials share the noise of the other images, and are not independent in this.
    """

    def __init__(
        self,
        raw: Images,
        test: Images,
        victim: Victim,
        trials: Sequence[Trial],
        attack: Attack,
        *,
        eps: int,
        seed: int = 0,
    ) -> None:
        """seed: of what victims draw, other draws in each trial; a victim and its control have the same."""
        self.raw, self.test, self.victim, self.trials = raw, test, victim, trials
        self.attack, self.eps, self.seed = attack, eps, seed
        self._pools: dict[str, Seen] = {}
        self._points: Seen = np.zeros((0, 0), np.float32)

    def prepare(self, defences: Sequence[Defence], check: Check) -> None:
        """What the victim reads of the test images, and of RAW behind each defence."""
        self._points = self.victim.read(self.test.pixels, check)
        for defence in defences:
            places = range(len(self.raw))
            defended = self.defended(defence, self.raw.pixels, places, 0, check)
            self._pools[defence.label] = self.victim.read(defended, check)

    def crafted(
        self, number: int, trial: Trial, foe: Foe, check: Check, most_steps: int | None = None
    ) -> tuple[Crafted, Crafting]:
        """The poisons of an attacker. number: of the trial, from 1."""
        begun = time.monotonic()
        foe.surrogate.sight.look_anew(number)
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
        """What victims say, one of each learner behind each defence. number: of the trial, from 1."""
        bases = [self.raw.pixels[place] for place in trial.bases]
        seed = number_of(self.seed, "victim", number)
        found = []
        for defence in foe.defences:
            given = [
                self._chosen(defence, self._planted(defence, trial, images, number, check), seed, check)
                for images in (poisons, bases)
            ]
            for learner in self.victim.learners:
                said = [self._said(learner, seen, labels, seed, check) for seen, labels in given]
                places = [int(answers[trial.target]) for answers in said]
                shares = [round(float((answers == self.test.labels).mean()), 6) for answers in said]
                found.append(Verdict(foe.crafted_for, defence.label, learner.name, *places, *shares))
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

    def _planted(
        self, defence: Defence, trial: Trial, images: Sequence[NDArray[np.uint8]], number: int, check: Check
    ) -> Seen:
        """What the victim reads of all images behind a defence, these among them in the places of the bases."""
        seen = self._pools[defence.label].copy()
        seen[trial.bases] = self.victim.read(self.defended(defence, images, trial.bases, number, check), check)
        return seen

    def _chosen(self, defence: Defence, seen: Seen, seed: int, check: Check) -> tuple[Seen, NDArray[np.int64]]:
        """What a defence leaves of that, and its labels."""
        labels = self.raw.labels
        if not defence.chooses:
            return seen, labels
        kept = defence.kept(self.victim.rows(seen, labels, len(self.raw.classes), seed, check), labels)
        return seen[kept], labels[kept]

    def _said(
        self, learner: Learner, seen: Seen, labels: NDArray[np.int64], seed: int, check: Check
    ) -> NDArray[np.int64]:
        """The classes of the test images."""
        return learner.fit(seen, labels, len(self.raw.classes), seed, check).predict(self._points)
