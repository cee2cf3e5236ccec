"""Sleeper agent: gradients are matched with those of images with a patch, and the network is trained anew between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dpclean.audit.attacks.attack import Case, Crafted, Following, Objective
from dpclean.audit.attacks.gradients import match, matching
from dpclean.audit.attacks.hidden_trigger import patch_of
from dpclean.audit.attacks.perturbation import Perturbation, stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch
from dpclean.audit.victims.scratch import SCRATCH

ROUNDS, STEPS = 5, 50  # in each of which the network is another one, and steps of each
SOURCES = 100  # images of the other class, at most


class SleeperAgent(Following):
    """The paper's attacker also chooses the images that he changes; here they are drawn."""

    name = "sleeper-agent"
    paper = (
        "Souri et al. 2022, 'Sleeper Agent: Scalable Hidden Trigger Backdoors for Neural Networks Trained from Scratch'"
    )
    about = (
        "the gradient of all weights for the poisons points where that for images of one other class with a patch does,"
        " for networks that learned from the poisons so far"
    )
    victims = (SCRATCH,)
    has_trigger = one_source = one_shape = True

    def most_steps(self, surrogate: Surrogate) -> int:
        return ROUNDS * STEPS

    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        """For the network that learned from no poison."""
        _, asked = _asked(case, surrogate)
        return matching(surrogate, asked, case.poison_class)

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        generator = torch.Generator().manual_seed(case.seed)
        patch, asked = _asked(case, surrogate)
        changed = Perturbation(case.bases, case.eps, surrogate.device)
        changed.scatter(generator)
        rounds = max(1, most_steps // STEPS)
        for number in range(rounds):
            within = surrogate if number == 0 else surrogate.poisoned(case.places, changed.pixels(), number)
            match(
                changed,
                within,
                asked,
                case.poison_class,
                steps=most_steps // rounds,
                generator=generator,
                on_step=on_step,
            )
        return Crafted(changed.pixels(), rounds * (most_steps // rounds), patch)


def _asked(case: Case, surrogate: Surrogate) -> tuple[Patch, Tensor]:
    """The patch, and images of the other class with it on them, grey levels [N,C,H,W]."""
    random, images = np.random.default_rng(case.seed), surrogate.images
    patch = patch_of(random, min(case.bases[0].shape[:2]))
    members = random.permutation(np.flatnonzero(images.labels == case.asked_class))[:SOURCES]
    return patch, stacked([patch.on(images.pixels[place]) for place in members])
