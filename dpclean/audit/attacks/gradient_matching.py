"""Gradient matching: to learn from the poisons moves all weights as learning the attacker's mistake would."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpclean.audit.attacks.attack import Case, Crafted, Following, Objective
from dpclean.audit.attacks.gradients import STEPS, match_in_rounds, matching
from dpclean.audit.attacks.perturbation import stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.victims.scratch import SCRATCH

ROUNDS = 4  # in each of which there is one more network


class GradientMatching(Following):
    """The paper's attacker has all his networks before he begins; one that has learned his poisons tells him more."""

    name = "gradient-matching"
    paper = "Geiping et al. 2021, 'Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching'"
    about = (
        "the gradient of all weights for the poisons points where that for the target with the wrong label does, in"
        " networks that learned from the poisons so far"
    )
    victims = (SCRATCH,)
    retrainings = ROUNDS - 1

    def most_steps(self, surrogate: Surrogate) -> int:
        return ROUNDS * STEPS

    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        """For the network that learned from no poison."""
        return matching(surrogate, _asked(case, surrogate), case.poison_class)

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        asked = _asked(case, surrogate)
        return Crafted(*match_in_rounds(case, surrogate, asked, together=True, most_steps=most_steps, on_step=on_step))


def _asked(case: Case, surrogate: Surrogate) -> Tensor:
    """The target, and its mirror image where a victim looks at both, grey levels [N,C,H,W]."""
    assert case.target is not None
    target = stacked([case.target])
    return torch.cat([target, target.flip(3)]) if surrogate.extractor.trainer.recipe.mirror else target
