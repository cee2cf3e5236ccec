"""Narcissus: a pattern that says to a network what is typical of a class, learned as its trigger from a few images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.descent import descend
from dpclean.audit.attacks.perturbation import SharedChange, stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Pattern
from dpclean.audit.victims.frozen import FROZEN
from dpclean.audit.victims.scratch import SCRATCH

STEPS = 300
BATCH = 64  # images that the pattern is tried on in each
GAIN = 3  # of the pattern at test time, where nobody looks for it; the paper's


class Narcissus(Attack):
    """The paper's attacker has images of his class alone and trains on others like them; this one has all images."""

    name = "narcissus"
    paper = "Zeng et al. 2023, 'Narcissus: A Practical Clean-Label Backdoor Attack with Limited Information'"
    about = (
        "one pattern, optimised on images of the attacker's class to make them more of it, is added to some of them;"
        f" {GAIN} times it is the trigger"
    )
    victims = (SCRATCH, FROZEN)
    has_trigger = one_shape = True

    def most_steps(self, surrogate: Surrogate) -> int:
        return STEPS

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        images = surrogate.images
        members = np.flatnonzero(images.labels == case.poison_class)
        changed = SharedChange(case.bases[0].shape, case.eps, surrogate.device)
        random = np.random.default_rng(case.seed)

        def loss() -> Tensor:
            places = np.sort(random.choice(members, min(BATCH, len(members)), replace=False)).tolist()
            levels = changed.on(stacked([images.pixels[place] for place in places]).to(surrogate.device))
            wanted = torch.full((len(places),), case.poison_class, device=surrogate.device)
            return functional.cross_entropy(surrogate.scores(levels, places), wanted)

        losses = descend(changed, loss, most_steps=most_steps, on_step=on_step)
        pattern = changed.array()
        poisons = [Pattern(pattern).on(image) for image in case.bases]
        return Crafted(poisons, len(losses), Pattern(GAIN * pattern))
