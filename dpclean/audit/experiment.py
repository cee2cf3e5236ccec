"""One trial: poisons are made, planted in a copy, and victims learn from it behind each defence."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences.defence import Certified, Check, Defence, Filtered
from dpclean.audit.trials import Trial, asked
from dpclean.audit.victims.victim import Learned, Seen, Victim
from dpclean.certificate.votes import ABSTAIN
from dpclean.data.dataset import Images
from dpclean.errors import InternalError
from dpclean.train.trainer import number_of


class Crafting(msgspec.Struct, frozen=True):
    """How poisons were made. crafted_for: the sigma that the attacker knows of, None where he knows of no defence;
    knows: that defence, as tables call it. processor_seconds: of all threads together, without those of a GPU.

    Distances are of the mean of the poisons' features from the target's, as a share of its length, as the attacker
    sees them; None where an attack has no such thing.
    """

    crafted_for: float | None
    seconds: float
    processor_seconds: float
    steps: int
    distance_before: float | None
    distance_after: float | None
    knows: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What two victims say of the test images that are asked, the target or all with the trigger on them: one that
    learned from the poisons, and the control from the images as they were. head: how both learned.

    tried: how many are asked. skipped: of these, targets that the control gets wrong. succeeded: of the others, those
    that the poisoned one takes for the poison class; control: of all, those that the control takes for it. accuracy:
    right answers on the test images as they are, as a share. reach: of those that are not skipped, how many changed
    images leave the control's answer what it is, by a certificate; None without one.
    """

    crafted_for: float | None
    defence: str
    head: str
    tried: int
    skipped: int
    succeeded: int
    control: int
    poisoned_accuracy: float
    control_accuracy: float
    reach: list[int] | None = None
    knows: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """All that a trial has shown."""

    trial: Trial
    craftings: list[Crafting]
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Foe:
    """An attacker: what he takes the victim for, the defences that he is tried against, and which of them he knows."""

    crafted_for: float | None
    surrogate: Surrogate
    defences: Sequence[Defence]
    knows: str | None = None


class Experiment:
    """All trials on one data set. Its images behind each defence are made and read once, with one draw of noise.

    Of a trial only the poisons, and for the control the images that they were made of, get noise of their own, the
    same for both. So trials share the noise of the other images, and are not independent in this.
    """

    def __init__(
        self,
        raw: Images,
        test: Images,
        eligible: NDArray[np.bool_],
        victim: Victim,
        trials: Sequence[Trial],
        attack: Attack,
        *,
        eps: int,
        seed: int = 0,
    ) -> None:
        """eligible: the test images that victims may be asked about. seed: of what attacker and victims draw, anew in
        each trial; a victim and its control draw the same.
        """
        self.raw, self.test, self.eligible, self.victim, self.trials = raw, test, eligible, victim, trials
        self.attack, self.eps, self.seed = attack, eps, seed
        self._pools: dict[str, Seen] = {}
        self._left: dict[str, Filtered] = {}
        self._controls_of: tuple[int, dict[str, list[tuple[str, Learned]]]] = (0, {})
        self._points: Seen = np.zeros((0, 0), np.float32)

    def prepare(self, defences: Sequence[Defence], check: Check) -> None:
        """What the victim reads of the test images, and of RAW behind each defence."""
        self._points = self.victim.read(self.test.pixels, check)
        for defence in defences:
            if defence.together:
                left = defence.filtered(self.raw.pixels, self.raw.labels, self.raw.classes, check)
                self._left[defence.label], images = left, left.images
            else:
                images = self.defended(defence, self.raw.pixels, range(len(self.raw)), 0, check)
            self._pools[defence.label] = self.victim.read(images, check)

    def crafted(
        self, number: int, trial: Trial, foe: Foe, check: Check, most_steps: int | None = None
    ) -> tuple[Crafted, Crafting]:
        """The poisons of an attacker. number: of the trial, from 1."""
        begun, used = time.monotonic(), time.process_time()
        foe.surrogate.sight.look_anew(number)
        case = Case(
            bases=[self.raw.pixels[place] for place in trial.bases],
            poison_class=trial.poison_class,
            eps=self.eps,
            target=None if trial.target is None else self.test.pixels[trial.target],
            asked_class=trial.source_class if trial.target is None else int(self.test.labels[trial.target]),
            seed=number_of(self.seed, "attack", number),
            places=trial.bases,
            number=number,
        )
        most_steps = most_steps or self.attack.most_steps(foe.surrogate)
        found = self.attack.craft(case, foe.surrogate, most_steps=most_steps, on_step=check)
        wall, processor = round(time.monotonic() - begun, 3), round(time.process_time() - used, 3)
        before, after = (
            None if one is None or not math.isfinite(one) else round(one, 4)
            for one in (found.distance_before, found.distance_after)
        )
        return found, Crafting(foe.crafted_for, wall, processor, found.steps, before, after, foe.knows)

    def verdicts(self, number: int, trial: Trial, foe: Foe, crafted: Crafted, check: Check) -> list[Verdict]:
        """What victims say, one of each learner behind each defence. number: of the trial, from 1."""
        trigger, planted = crafted.trigger, self._with(trial, crafted.pixels)
        places = self.asked(trial)
        if trigger is None:
            asked = self._points[places]
        else:
            asked = self.victim.read([trigger.on(self.test.pixels[place]) for place in places], check)
        found = []
        for defence in foe.defences:
            learned = self._learned(defence, trial, planted, number, check)
            for (head, poisoned_one), (_, control_one) in zip(
                learned, self._controls(defence, trial, number, check), strict=True
            ):
                (poisoned, poisoned_accuracy), (control, control_accuracy) = (
                    self._answers(one, asked) for one in (poisoned_one, control_one)
                )
                # a target that the control gets wrong shows nothing; a trigger is counted on all images
                right = control == self.test.labels[places] if trigger is None else np.ones(len(places), np.bool_)
                reach = control_one.reach(asked) if isinstance(control_one, Certified) else None
                if reach is not None:
                    _check_claims(reach >= len(trial.bases), poisoned, control, f"{defence.label}, trial {number}")
                found.append(
                    Verdict(
                        crafted_for=foe.crafted_for,
                        defence=defence.label,
                        head=head,
                        tried=len(places),
                        skipped=int((~right).sum()),
                        succeeded=int((right & (poisoned == trial.poison_class)).sum()),
                        control=int((control == trial.poison_class).sum()),
                        poisoned_accuracy=poisoned_accuracy,
                        control_accuracy=control_accuracy,
                        reach=None if reach is None else reach[right].tolist(),
                        knows=foe.knows,
                    )
                )
        return found

    def _learned(
        self, defence: Defence, trial: Trial, images: Images, number: int, check: Check
    ) -> list[tuple[str, Learned]]:
        """What victims make of all images, one of each learner, with its name."""
        seed = number_of(self.seed, "victim", number)
        seen, labels = self._given(defence, trial, images, number, seed, check)
        learners = defence.learners(images) or self.victim.learners
        return [(one.name, one.fit(seen, labels, len(self.raw.classes), seed, check)) for one in learners]

    def _controls(self, defence: Defence, trial: Trial, number: int, check: Check) -> list[tuple[str, Learned]]:
        """The same of the images as they were: the same ones for all attackers of a trial."""
        if self._controls_of[0] != number:
            self._controls_of = number, {}
        known = self._controls_of[1]
        if defence.label not in known:
            known[defence.label] = self._learned(defence, trial, self.raw, number, check)
        return known[defence.label]

    def _answers(self, learned: Learned, asked: Seen) -> tuple[NDArray[np.int64], float]:
        """Of what is asked, and the accuracy on the test images; all in one, as a program learns for every answer."""
        whole = learned.predict(np.concatenate([self._points, asked]))
        right = whole[: len(self._points)] == self.test.labels
        return whole[len(self._points) :], round(float(right.mean()), 6)

    def asked(self, trial: Trial) -> list[int]:
        """The places of the test images that the victims of a trial are asked about."""
        return asked(trial, self.test, self.eligible)

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

    def _with(self, trial: Trial, poisons: Sequence[NDArray[np.uint8]]) -> Images:
        """All images with poisons in the places of the bases."""
        pixels, labels = list(self.raw.pixels), self.raw.labels.copy()
        for place, poison in zip(trial.bases, poisons, strict=True):
            pixels[place] = poison
        labels[trial.bases] = trial.poison_class
        return replace(self.raw, pixels=pixels, labels=labels)

    def _given(
        self, defence: Defence, trial: Trial, images: Images, number: int, seed: int, check: Check
    ) -> tuple[Seen, NDArray[np.int64]]:
        """What the victim reads of those of all images that a defence leaves, and their labels."""
        if defence.together:
            return self._filtered(defence, images, check)
        return self._chosen(defence, self._planted(defence, trial, images, number, check), images.labels, seed, check)

    def _filtered(self, defence: Defence, images: Images, check: Check) -> tuple[Seen, NDArray[np.int64]]:
        """The same of a defence that is asked about all images together; about RAW it was asked already."""
        before = self._left[defence.label]
        left = before
        if images is not self.raw:
            left = defence.filtered(images.pixels, images.labels, images.classes, check)
        seen = self._pools[defence.label].copy()
        pairs = enumerate(zip(left.images, before.images, strict=True))
        others = [place for place, (new, old) in pairs if new is not old and not np.array_equal(new, old)]
        if others:
            seen[others] = self.victim.read([left.images[place] for place in others], check)
        return seen[left.kept], images.labels[left.kept]

    def _planted(self, defence: Defence, trial: Trial, images: Images, number: int, check: Check) -> Seen:
        """What the victim reads of all images behind a defence, of which those in the places of the bases are new."""
        new = [images.pixels[place] for place in trial.bases]
        seen = self._pools[defence.label].copy()
        seen[trial.bases] = self.victim.read(self.defended(defence, new, trial.bases, number, check), check)
        return seen

    def _chosen(
        self, defence: Defence, seen: Seen, labels: NDArray[np.int64], seed: int, check: Check
    ) -> tuple[Seen, NDArray[np.int64]]:
        """What a defence leaves of that."""
        if not defence.chooses:
            return seen, labels
        kept = defence.kept(self.victim.rows(seen, labels, len(self.raw.classes), seed, check), labels)
        return seen[kept], labels[kept]


def _check_claims(
    covered: NDArray[np.bool_], poisoned: NDArray[np.int64], control: NDArray[np.int64], told: str
) -> None:
    """Raises InternalError where an answer that a certificate covers became another one; it may become none."""
    if (covered & (poisoned != control) & (poisoned != ABSTAIN)).any():
        raise InternalError(
            f"{told}: poisons changed an answer, and its certificate says that so many cannot",
            "please report this: certificates of this kind may be wrong",
        )
