"""Hidden triggers: poisons are to a network like images of another class with a patch, which no poison shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.descent import descend
from dpclean.audit.attacks.feature_attack import distance
from dpclean.audit.attacks.perturbation import Perturbation
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.attacks.triggers import Patch

SOURCES = 200  # images of the other class that are looked at, at most
EDGE, MARGIN = 8 / 32, 5 / 32  # of the patch, and its distance from the corner: shares of the image's edge


class HiddenTrigger(Attack):
    """The patch is where the poisoning benchmark of Schwarzschild et al. 2021 has it, in one place."""

    name = "hidden-trigger"
    paper = "Saha et al. 2020, 'Hidden Trigger Backdoor Attacks'"
    about = "the features of each poison meet those of an image of one other class with a patch of random colours on it"
    has_trigger = one_source = True

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        from scipy.optimize import linear_sum_assignment

        assert case.asked_class is not None
        random, label = np.random.default_rng(case.seed), case.asked_class
        patch = patch_of(random, min(case.bases[0].shape[:2]))
        images = surrogate.images
        members = random.permutation(np.flatnonzero(images.labels == label))[:SOURCES]
        sources = surrogate.rows_of([patch.on(images.pixels[place]) for place in members])
        changed = Perturbation(case.bases, case.eps, surrogate.device)
        aim = surrogate.aim(case.places, case.poison_class, label)
        middle, length = sources.mean(0), sources.square().sum(1).mean()
        distances: list[float] = []

        def loss() -> Tensor:
            """Between poisons and as many sources, other ones in each step, each with its own."""
            rows = changed.seen_by(surrogate.rows)
            distances.append(distance(rows, middle))
            drawn = random.choice(len(sources), len(rows), replace=len(sources) < len(rows))
            wanted = sources[torch.from_numpy(drawn).to(sources.device)]
            costs = torch.cdist(rows.detach(), wanted).cpu().double().numpy()
            paired = torch.from_numpy(linear_sum_assignment(costs)[1]).to(sources.device)
            return (rows - wanted[paired]).square().sum(1).mean() / length + aim(rows, wanted)

        losses = descend(changed, loss, rate=surrogate.rate, most_steps=most_steps, on_step=on_step)
        with torch.no_grad():
            after = distance(changed.seen_by(surrogate.rows), middle)
        return Crafted(changed.pixels(), len(losses), patch, distances[0], after)


def patch_of(random: np.random.Generator, edge: int) -> Patch:
    """Of random colours, for images of this edge."""
    size = max(1, round(EDGE * edge))
    return Patch(random.integers(0, 256, (size, size, 3), np.uint8), margin=round(MARGIN * edge))
