"""What each attack makes of images: within its budget, nearer to what it wants, through a defence and without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpclean.audit.attacks import ATTACKS, find_attack
from dpclean.audit.attacks.attack import Case, Crafted, Following
from dpclean.audit.attacks.gradients import STEPS, gradient, matching, mismatch, weights_of
from dpclean.audit.attacks.informed import Informed
from dpclean.audit.attacks.perturbation import stacked
from dpclean.audit.attacks.sight import ThroughDenoiser
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Pattern
from dpclean.audit.victims.frozen import FROZEN, Frozen
from dpclean.audit.victims.scratch import SCRATCH, Scratch
from dpclean.audit.victims.victim import Victim
from dpclean.data.dataset import Images, read_images
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import Diverged
from dpclean.train.extractor import find_extractor
from dpclean.train.recipes import find_recipe

CPU, EPS = torch.device("cpu"), 16


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return read_images(raw, workers=1)


@pytest.fixture(scope="module")
def victims(data: Images, model: Path) -> dict[str, Victim]:
    scratch = Scratch(replace(find_recipe("tiny"), least_steps=30), len(data.classes), 16, CPU)
    return {FROZEN: Frozen(find_extractor(str(model), device=CPU)), SCRATCH: scratch}


@pytest.fixture(scope="module")
def surrogates(data: Images, victims: dict[str, Victim]) -> dict[str, Surrogate]:
    """Of attackers who know of no defence, by the kind of victim."""
    return {kind: Surrogate(victim, data, seed=5) for kind, victim in victims.items()}


def case_of(data: Images) -> Case:
    """Blue images, for a red target or a trigger on red images."""
    red = next(pixels for pixels, label in zip(data.pixels, data.labels, strict=True) if label == 2)
    places = np.flatnonzero(data.labels == 0)[:6].tolist()
    return Case([data.pixels[place] for place in places], 0, EPS, red, 2, seed=1, places=places)


def crafted(name: str, case: Case, surrogate: Surrogate, steps: int) -> Crafted:
    return find_attack(name).craft(case, surrogate, most_steps=steps, on_step=lambda: None)


def probabilities(surrogate: Surrogate, images: list[np.ndarray]) -> Tensor:
    with torch.no_grad():
        return surrogate.scores(stacked(images), range(len(images))).softmax(1)


@pytest.mark.parametrize(
    "name", [name for name, attack in ATTACKS.items() if attack.has_gradients and name != "guided-diffusion"]
)
def test_nothing_is_changed_by_more_than_eps_but_what_a_patch_covers(
    name: str, data: Images, victims: dict[str, Victim], surrogates: dict[str, Surrogate], denoiser: Path
) -> None:
    case, attack = case_of(data), find_attack(name)
    kind = attack.victims[0]
    sight = ThroughDenoiser(Denoiser(find_denoiser(str(denoiser)), 0.1, device="cpu"), bytes(32))
    for surrogate in (surrogates[kind], Informed(victims[kind], data, sight, seed=5)):
        made = crafted(name, case, surrogate, 9)
        covered = np.zeros((16, 16, 1), bool)
        if attack.beyond:
            assert made.trigger is not None
            zeros = np.zeros((16, 16, 3), np.uint8)
            covered = (made.trigger.on(zeros) == made.trigger.on(zeros + 255)).all(2, keepdims=True)
        assert made.steps and len(made.pixels) == len(case.bases)
        changes = np.abs(np.subtract(made.pixels, case.bases, dtype=int)) * ~covered
        assert all(poison.dtype == np.uint8 for poison in made.pixels) and 0 < changes.max() <= EPS


def test_narcissus_adds_one_pattern_that_says_its_class(data: Images, surrogates: dict[str, Surrogate]) -> None:
    case, surrogate = case_of(data), surrogates[SCRATCH]
    made = crafted("narcissus", case, surrogate, 100)
    assert isinstance(made.trigger, Pattern) and np.abs(made.trigger.array).max() == 3 * EPS
    for base, poison in zip(case.bases, made.pixels, strict=True):
        assert (poison == Pattern(made.trigger.array // 3).on(base)).all()
    others = [pixels for pixels, label in zip(data.pixels, data.labels, strict=True) if label]
    before = probabilities(surrogate, others)[:, 0].mean()
    assert probabilities(surrogate, [made.trigger.on(image) for image in others])[:, 0].mean() > before + 0.3


def test_label_consistent_poisons_do_not_look_like_their_class(data: Images, surrogates: dict[str, Surrogate]) -> None:
    case, surrogate = case_of(data), surrogates[FROZEN]
    made = crafted("label-consistent", case, surrogate, 60)
    assert made.trigger is not None
    as_bases = [made.trigger.on(image) for image in case.bases]
    own = [float(probabilities(surrogate, images)[:, 0].mean()) for images in (as_bases, made.pixels)]
    assert own[1] < own[0] - 0.2


def test_hidden_triggers_are_near_what_they_are_for_and_show_no_patch(
    data: Images, surrogates: dict[str, Surrogate]
) -> None:
    made = crafted("hidden-trigger", case_of(data), surrogates[FROZEN], 60)
    assert made.distance_before is not None and made.distance_after is not None and made.trigger is not None
    assert made.distance_after < 0.8 * made.distance_before
    blank = np.zeros((16, 16, 3), np.uint8)
    assert (made.trigger.on(blank) != blank).any(2)[10:14, 10:14].all()
    assert not (made.trigger.on(blank) != blank)[14:].any()


@pytest.mark.parametrize("name", ["gradient-matching", "sleeper-agent"])
def test_to_learn_from_matched_gradients_is_to_learn_the_mistake(
    name: str, data: Images, surrogates: dict[str, Surrogate]
) -> None:
    case, surrogate = case_of(data), surrogates[SCRATCH]
    assert case.target is not None
    made = crafted(name, case, surrogate, STEPS)
    asked = [case.target]
    if made.trigger is not None:
        asked = [made.trigger.on(data.pixels[place]) for place in np.flatnonzero(data.labels == case.asked_class)]
    objective = matching(surrogate, stacked(asked), case.poison_class)
    before, after = (float(objective(stacked(some), range(6)).detach()) for some in (case.bases, made.pixels))
    assert after < before - 0.1


def test_a_target_is_matched_with_its_mirror_image_where_victims_look_at_both(
    data: Images, surrogates: dict[str, Surrogate]
) -> None:
    case, surrogate = case_of(data), surrogates[SCRATCH]
    assert case.target is not None and surrogate.extractor.trainer.recipe.mirror
    target, levels = stacked([case.target]), stacked(case.bases)
    with weights_of(surrogate) as weights:
        wanted = gradient(surrogate, weights, torch.cat([target, target.flip(3)]), 0)
        expected = mismatch(gradient(surrogate, weights, levels, 0), wanted)
    assert float(mismatch(wanted, wanted).detach()) == pytest.approx(0, abs=1e-5)
    attack = find_attack("gradient-matching")
    assert isinstance(attack, Following)
    found = attack.objective(case, surrogate)(levels, range(len(levels)))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


class Watched(Surrogate):
    """Remembers the poisons that a network was trained on."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.learned: list[Sequence[np.ndarray]] = []

    def poisoned(self, places: Sequence[int], pixels: Sequence[np.ndarray], number: int) -> Surrogate:
        self.learned.append(pixels)
        return super().poisoned(places, pixels, number)


def test_an_attacker_trains_again_on_his_poisons(
    data: Images, victims: dict[str, Victim], surrogates: dict[str, Surrogate]
) -> None:
    case, surrogate = case_of(data), Watched(victims[SCRATCH], data, seed=5)
    made = crafted("gradient-matching", case, surrogate, 2 * STEPS)
    for name in ("gradient-matching", "sleeper-agent"):
        attack = find_attack(name)
        assert attack.retrainings == attack.most_steps(surrogate) // STEPS - 1 > 0
    assert made.steps == 2 * STEPS and len(surrogate.learned) == 1
    (between,) = surrogate.learned
    assert all(
        not np.array_equal(before, after) and not np.array_equal(before, base)
        for before, after, base in zip(between, made.pixels, case.bases, strict=True)
    )
    again = surrogates[SCRATCH].poisoned(case.places, between, 1)
    assert all((again.images.pixels[place] == one).all() for place, one in zip(case.places, between, strict=True))
    assert again.extractor.digest != surrogates[SCRATCH].extractor.digest


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("badnets", "guided-diffusion")])
def test_a_network_that_computes_nothing_finite_is_no_attack_that_was_withstood(
    name: str, data: Images, victims: dict[str, Victim], model: Path
) -> None:
    frozen = Frozen(find_extractor(str(model), device=CPU))
    surrogate = Surrogate(frozen, data, seed=5)
    assert surrogate.head_parts  # of a network that still was
    with torch.no_grad():
        for parameter in surrogate.extractor.trainer.network.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        crafted(name, case_of(data), surrogate, 3)
