"""Gradient matching: to learn from the poisons moves all weights as learning the attacker's mistake would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.gradients import match
from dpclean.audit.attacks.perturbation import Perturbation, stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.victims.scratch import SCRATCH

RESTARTS, STEPS = 8, 250
LAST = 10  # steps whose mean loss says which restart was best


class GradientMatching(Attack):
    """From several random beginnings, of which the one counts that ends nearest."""

    name = "gradient-matching"
    paper = "Geiping et al. 2021, 'Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching'"
    about = "the gradient of all weights for the poisons points where that for the target with the wrong label does"
    victims = (SCRATCH,)

    def most_steps(self, surrogate: Surrogate) -> int:
        return RESTARTS * STEPS

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        assert case.target is not None
        target, generator = stacked([case.target]), torch.Generator().manual_seed(case.seed)
        restarts = min(RESTARTS, most_steps)
        best, least, steps = list[NDArray[np.uint8]](), float("inf"), most_steps // restarts
        for _ in range(restarts):
            changed = Perturbation(case.bases, case.eps, surrogate.device)
            changed.scatter(generator)
            losses = match(
                changed, surrogate, target, case.poison_class, steps=steps, generator=generator, on_step=on_step
            )
            last = float(np.mean(losses[-LAST:]))
            if not best or last < least:
                best, least = changed.pixels(), last
        return Crafted(best, restarts * steps)
