"""Attacks on the rows of features that a head learns from: what their poisons are to become, beside the target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpclean.audit.attacks.attack import Case, Crafted, Following, Objective
from dpclean.audit.attacks.descent import descend
from dpclean.audit.attacks.perturbation import Perturbation
from dpclean.audit.attacks.surrogate import Surrogate


class FeatureAttack(Following):
    """One that is after a target."""

    @abstractmethod
    def loss(self, poisons: Tensor, target: Tensor) -> Tensor:
        """What the attacker makes small: of the poisons' rows float [P,D] and the target's row [D]; 0 at best."""

    def objective(self, case: Case, surrogate: Surrogate) -> Objective:
        assert case.target is not None and case.asked_class is not None
        wanted, aim = surrogate.row_of(case.target), surrogate.aim(case.places, case.poison_class, case.asked_class)

        def of(levels: Tensor, places: Sequence[int]) -> Tensor:
            rows = surrogate.rows(levels, places)
            return self.loss(rows, wanted) + aim(rows, wanted[None])

        return of

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        assert case.target is not None and case.asked_class is not None
        changed = Perturbation(case.bases, case.eps, surrogate.device)
        wanted, aim = surrogate.row_of(case.target), surrogate.aim(case.places, case.poison_class, case.asked_class)
        distances: list[float] = []

        def loss() -> Tensor:
            rows = changed.seen_by(surrogate.rows)
            distances.append(distance(rows, wanted))
            return self.loss(rows, wanted) + aim(rows, wanted[None])

        losses = descend(changed, loss, rate=surrogate.rate, most_steps=most_steps, on_step=on_step)
        with torch.no_grad():
            after = distance(changed.seen_by(surrogate.rows), wanted)
        return Crafted(changed.pixels(), len(losses), None, distances[0], after)


def distance(rows: Tensor, target: Tensor) -> float:
    """Of the mean of rows [P,D] from a row [D], as a share of its length."""
    return float((rows.detach().mean(0) - target).norm() / target.norm().clamp(min=1e-12))
