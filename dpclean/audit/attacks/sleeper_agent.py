"""Sleeper agent: gradients are matched with those of images with a patch, and the network is trained anew between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from dpclean.audit.attacks.attack import Case, Crafted, Following, Objective
from dpclean.audit.attacks.gradients import STEPS, match_in_rounds, matching
from dpclean.audit.attacks.hidden_trigger import patch_of
from dpclean.audit.attacks.perturbation import stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch
from dpclean.audit.victims.scratch import SCRATCH

ROUNDS = 5  # in each of which the network is another one
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
    retrainings = ROUNDS - 1

    def most_steps(self, surrogate: Surrogate) -> int:
        return ROUNDS * STEPS

    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        """For the network that learned from no poison."""
        _, asked = _asked(case, surrogate)
        return matching(surrogate, asked, case.poison_class)

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        patch, asked = _asked(case, surrogate)
        pixels, steps = match_in_rounds(case, surrogate, asked, together=False, most_steps=most_steps, on_step=on_step)
        return Crafted(pixels, steps, patch)


def _asked(case: Case, surrogate: Surrogate) -> tuple[Patch, Tensor]:
    """The patch, and images of the other class with it on them, grey levels [N,C,H,W]."""
    random, images = np.random.default_rng(case.seed), surrogate.images
    patch = patch_of(random, min(case.bases[0].shape[:2]))
    members = random.permutation(np.flatnonzero(images.labels == case.asked_class))[:SOURCES]
    return patch, stacked([patch.on(images.pixels[place]) for place in members])
