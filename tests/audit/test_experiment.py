"""What a trial shows: planted images mislead a victim, the same images unchanged do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dpclean.audit.attacks import find_attack
from dpclean.audit.attacks.attack import Case, Crafted
from dpclean.audit.attacks.informed import Informed
from dpclean.audit.attacks.sight import ThroughDenoiser
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences.defence import Setting
from dpclean.audit.defences.nothing import Nothing
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.experiment import Crafting, Experiment, Foe, Outcome, Verdict
from dpclean.audit.results import doubts, headline, rows_of, wilson
from dpclean.audit.trials import Trial
from dpclean.audit.victims.frozen import Frozen
from dpclean.audit.victims.heads import HEADS, Linear, Logistic
from dpclean.data.dataset import read_images
from dpclean.errors import Diverged
from dpclean.noise.keys import key_from_seed
from dpclean.train.extractor import Extractor, find_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor(model: Path) -> Extractor:
    return find_extractor(str(model), device=CPU)


def test_copies_of_the_target_mislead_every_head(raw: Path, test_images: Path, extractor: Extractor) -> None:
    data, test = read_images(raw, workers=1), read_images(test_images, workers=1)
    target = test.names.index("red/002.png")
    trial = Trial(target, 0, np.flatnonzero(data.labels == 0).tolist())
    attack = find_attack("bullseye-polytope")
    experiment = Experiment(data, test, np.ones(len(test), bool), Frozen(extractor), [trial], attack, eps=16)
    foe = Foe(None, Surrogate(Frozen(extractor), data), [Nothing()])
    experiment.prepare(foe.defences, lambda: None)
    copies = Crafted([test.pixels[target]] * len(trial.bases))
    verdicts = experiment.verdicts(1, trial, foe, copies, lambda: None)
    assert [(one.head, one.tried, one.succeeded, one.skipped, one.control) for one in verdicts] == [
        (head, 1, 1, 0, 0) for head in HEADS
    ]
    assert all(one.control_accuracy > one.poisoned_accuracy for one in verdicts)


class Counting(Logistic):
    fits = 0

    def fit(self, *given: Any, **named: Any) -> Linear:
        self.fits += 1
        return super().fit(*given, **named)


def test_attackers_of_a_trial_share_its_controls(raw: Path, test_images: Path, extractor: Extractor) -> None:
    data, test = read_images(raw, workers=1), read_images(test_images, workers=1)
    victim, trial, head = Frozen(extractor), Trial(0, 1, np.flatnonzero(data.labels == 1).tolist()), Counting()
    victim.learners = (head,)
    attack = find_attack("bullseye-polytope")
    experiment = Experiment(data, test, np.ones(len(test), bool), victim, [trial], attack, eps=16)
    foe = Foe(None, Surrogate(victim, data), [Nothing()])
    experiment.prepare(foe.defences, lambda: None)
    for number, fits in ((1, 2), (1, 3), (2, 5)):
        unchanged = Crafted([data.pixels[place] for place in trial.bases])
        (verdict,) = experiment.verdicts(number, trial, foe, unchanged, lambda: None)
        assert verdict.poisoned_accuracy == verdict.control_accuracy and head.fits == fits


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 20, 16)])
def test_poisons_are_near_the_target_and_near_their_bases(
    sizes: tuple[int, ...], raw: Path, extractor: Extractor
) -> None:
    random = np.random.default_rng(1)
    bases = [random.integers(60, 160, (size, size, 3), np.uint8) for size in sizes]
    target = random.integers(60, 160, (16, 16, 3), np.uint8)
    attack = find_attack("bullseye-polytope")
    attacker = Surrogate(Frozen(extractor), read_images(raw, workers=1))
    made = attack.craft(Case(bases, 1, 24, target, 0), attacker, most_steps=60, on_step=lambda: None)
    assert made.distance_after < 0.7 * made.distance_before
    for base, poison in zip(bases, made.pixels, strict=True):
        assert poison.dtype == np.uint8 and 0 < np.abs(poison.astype(int) - base).max() <= 24
    rows, wanted = extractor.features(made.pixels), extractor.features([target])[0]
    found = np.linalg.norm(rows.mean(0) - wanted) / np.linalg.norm(wanted)
    if len(set(sizes)) == 1:  # else the way to the network's size rounds
        assert found == pytest.approx(made.distance_after, rel=1e-3)


def test_rows_count_what_their_control_gets_right() -> None:
    def verdict(succeeded: int, skipped: int, control: int) -> Verdict:
        return Verdict(None, "none", "logistic", 1, skipped, succeeded, control, 0.5, 0.75)

    # success, failure, and two that are wrong without any poison, one of them as the attacker wants
    said = [(1, 0, 0), (0, 0, 0), (0, 1, 1), (0, 1, 0)]
    made = [Crafting(None, 1.0, 1.0, 60, 1.2, 0.1)]
    outcomes = [Outcome(Trial(n, 1, [0]), made, [verdict(*counts)]) for n, counts in enumerate(said)]
    (row,) = rows_of(outcomes)
    assert (row.trials, row.skipped, row.attacked, row.succeeded, row.control) == (4, 2, 2, 1, 1)
    assert (row.accuracy, row.control_accuracy) == (0.5, 0.75)
    assert headline([row]) == "Without a defence 1 of 2 attacks succeed."
    assert headline([row], trigger=True).startswith("Without a defence 1 of 2 test images with the trigger are taken")
    hardly = msgspec.structs.replace(row, control_accuracy=0.6)
    assert (
        doubts([row], 2) == [] and "right on 60 % of the test images, little more than chance" in doubts([hardly], 2)[0]
    )


def test_who_knows_another_purifier_of_that_sigma_has_a_row_of_his_own() -> None:
    def told(knows: str, seconds: float) -> tuple[Crafting, Verdict]:
        made = Crafting(0.1, seconds, 1.0, 60, None, None, knows)
        return made, Verdict(0.1, knows, "sgd", 1, 0, 1, 0, 0.5, 0.75, knows=knows)

    (first, said), (second, other) = told("sanitized at 0.1", 1.0), told("sanitized:ddim:2 at 0.1", 3.0)
    rows = rows_of([Outcome(Trial(0, 1, [0]), [first, second], [said, other])])
    assert [(row.knows, row.crafting_seconds) for row in rows] == [(first.knows, 1.0), (second.knows, 3.0)]
    assert "sanitized:ddim:2 at 0.1, 1 of 1 by an attacker who knows the defence" in headline(rows)


def test_wilson_is_as_published() -> None:
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_head_that_cannot_converge_is_refused() -> None:
    rows = np.full((4, 2), np.inf, np.float32)
    for head in HEADS.values():
        with pytest.raises(Diverged, match=head.name), np.errstate(invalid="ignore"):
            head.fit(rows, np.array([0, 1, 0, 1]), 2)


def test_who_knows_the_defence_sees_through_it(
    raw: Path, test_images: Path, denoiser: Path, extractor: Extractor
) -> None:
    """By what victims learn under other keys: they take targets for the poisons' class more than after the work of one
    who does not.

    The denoiser leaves the noise where it is, so that it is the strongest that there is to see through.
    """
    data, test = read_images(raw, workers=1), read_images(test_images, workers=1)
    places = np.flatnonzero(data.labels == 0)[:8].tolist()
    defence = Sanitized(0.1, Setting([0.1], str(denoiser), "one-step", "cpu", key_from_seed(1, "audit"), 8, 1))
    sight = ThroughDenoiser(defence.denoiser, bytes(32))
    towards = {Surrogate: 0.0, Informed: 0.0}
    for asked, name in ((2, "red/002.png"), (1, "green/001.png")):
        target = test.pixels[test.names.index(name)]
        for attacker in (Surrogate(Frozen(extractor), data), Informed(Frozen(extractor), data, sight)):
            case = Case([data.pixels[place] for place in places], 0, 48, target, asked, places=places)
            made = find_attack("bullseye-polytope").craft(case, attacker, most_steps=60, on_step=lambda: None)
            planted = dict(zip(places, made.pixels, strict=True))
            images = [planted.get(place, image) for place, image in enumerate(data.pixels)]
            for run in range(1, 4):
                got = extractor.features(defence.apply(images, indices=range(len(images)), run=run))
                head = Logistic().fit(got, data.labels, 3)
                row = (extractor.features([target])[0] - head.centre) / head.scale
                scores = np.append(row, 1) @ head.weights
                towards[type(attacker)] += float(scores[0] - scores[asked])
    assert towards[Informed] > towards[Surrogate]
