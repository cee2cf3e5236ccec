"""Feature collision: every poison by itself becomes the target's double."""

from __future__ import annotations

from torch import Tensor

from dpclean.audit.attacks.feature_attack import FeatureAttack


class FeatureCollision(FeatureAttack):
    """The paper keeps poisons near their bases by a penalty; here the largest allowed change does."""

    name = "feature-collision"
    paper = "Shafahi et al. 2018, 'Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks'"
    about = "the features of each poison meet the target's"

    def loss(self, poisons: Tensor, target: Tensor) -> Tensor:
        return (poisons - target).square().sum(1).mean() / target.square().sum()
