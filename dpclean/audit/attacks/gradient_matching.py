"""Gradient matching: to learn from the poisons moves all weights as learning the attacker's mistake would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dpclean.audit.attacks.attack import Case, Crafted, Following, Objective
from dpclean.audit.attacks.gradients import match, matching
from dpclean.audit.attacks.perturbation import Perturbation, stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.victims.scratch import SCRATCH

BEGINNINGS, LOOK, STEPS = 8, 20, 200  # random ones, steps of each, and further ones of the best
LAST = 10  # steps whose mean loss says which was best


class GradientMatching(Following):
    """From several random beginnings, of which the one goes on that comes nearest at first; the paper's attacker has
    250 steps for each, which comes little nearer at five times the cost.
    """

    name = "gradient-matching"
    paper = "Geiping et al. 2021, 'Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching'"
    about = "the gradient of all weights for the poisons points where that for the target with the wrong label does"
    victims = (SCRATCH,)

    def most_steps(self, surrogate: Surrogate) -> int:
        return BEGINNINGS * LOOK + STEPS

    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        assert case.target is not None
        return matching(surrogate, stacked([case.target]), case.poison_class)

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        assert case.target is not None
        target, generator = stacked([case.target]), torch.Generator().manual_seed(case.seed)

        def matched(changed: Perturbation, steps: int) -> float:
            label = case.poison_class
            losses = match(changed, surrogate, target, label, steps=steps, generator=generator, on_step=on_step)
            return float(np.mean(losses[-LAST:]))

        count = max(1, min(BEGINNINGS, most_steps // (2 * LOOK)))
        look = min(LOOK, most_steps)
        begun = list[tuple[float, Perturbation]]()
        for _ in range(count):
            changed = Perturbation(case.bases, case.eps, surrogate.device)
            changed.scatter(generator)
            begun.append((matched(changed, look), changed))
        best, left = min(begun, key=lambda one: one[0])[1], most_steps - count * look
        if left:
            matched(best, left)
        return Crafted(best.pixels(), most_steps)
