"""Guided diffusion: poisons of images that a diffusion model made so that they are potent before they are changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack, Case, Crafted, Following, Objective
from dpclean.audit.attacks.perturbation import stacked
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.generator import STEPS, Generator
from dpclean.audit.victims.frozen import FROZEN
from dpclean.audit.victims.scratch import SCRATCH

GROUPS = 2  # times as many images are made as are wanted
WEIGHT = 0.03  # of the guidance, as a share of the predicted noise: with 0.1 digits were no longer of their class
LOOKS = 4  # at each poison, for how potent it is: through a defence each shows something else


class GuidedDiffusion(Attack):
    """Another attack from base images that a generator made, drawn weakly to where that attack wants them.

    They are changed as that attack does it, and the most potent ones, each judged by itself, are changed once more
    together, without those that were left out.
    """

    name = "guided-diffusion"
    paper = "Souri et al. 2024, 'Generating Potent Poisons and Backdoors from Scratch with Guided Diffusion'"
    about = (
        "the base images are made by a class-conditional diffusion model, guided weakly by the objective of another"
        " attack, which then changes them; with ':ATTACK' behind the name it is that one"
    )
    victims: Sequence[str] = (FROZEN, SCRATCH)
    one_shape = True
    beyond = "the images before the change, which the diffusion model made: whole images of RAW are replaced"

    def __init__(self, inner: Following | None = None, generator: Generator | None = None) -> None:
        """inner: the other attack; without it and without a generator this is but a name in a list."""
        self._inner, self._generator = inner, generator
        if inner is not None:
            self.name = f"{GuidedDiffusion.name}:{inner.name}"
            self.victims, self.has_trigger, self.one_source = inner.victims, inner.has_trigger, inner.one_source
            self.retrainings = (GROUPS + 1) * inner.retrainings

    def with_generator(self, generator: Generator) -> GuidedDiffusion:
        return GuidedDiffusion(self._inner, generator)

    def parameters(self) -> dict[str, str]:
        return {} if self._generator is None else self._generator.parameters()

    def most_steps(self, surrogate: Surrogate) -> int:
        assert self._inner is not None
        return GROUPS * STEPS + (GROUPS + 1) * self._inner.most_steps(surrogate)

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        inner, generator, count = self._inner, self._generator, len(case.bases)
        assert inner is not None and generator is not None
        random, objective = torch.Generator().manual_seed(case.seed), inner.objective(case, surrogate)
        sampling = max(1, most_steps * STEPS // self.most_steps(surrogate))
        changing = max(1, (most_steps - GROUPS * sampling) // (GROUPS + 1))
        bases, losses, done = list[NDArray[np.uint8]](), list[float](), 0
        for _ in range(GROUPS):
            group = generator.sample(
                case.poison_class,
                count,
                random=random,
                towards=lambda levels: objective(levels, range(count)),
                weight=WEIGHT,
                steps=sampling,
                on_step=on_step,
            )
            made = inner.craft(replace(case, bases=group), surrogate, most_steps=changing, on_step=on_step)
            bases += group
            losses += each_alone(made.pixels, objective, surrogate.device)
            done += sampling + made.steps
        chosen = [bases[place] for place in sorted(np.argsort(losses, kind="stable")[:count].tolist())]
        found = inner.craft(replace(case, bases=chosen), surrogate, most_steps=changing, on_step=on_step)
        return replace(found, steps=done + found.steps, bases=chosen)


def each_alone(poisons: Sequence[NDArray[np.uint8]], objective: Objective, device: torch.device) -> list[float]:
    """The objective of each poison by itself: the least are the most potent."""
    return [
        float(np.mean([float(objective(stacked([poison]).to(device), [place]).detach()) for _ in range(LOOKS)]))
        for place, poison in enumerate(poisons)
    ]
