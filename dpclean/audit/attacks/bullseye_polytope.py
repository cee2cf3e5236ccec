"""Bullseye polytope: the poisons surround the target, and it lies in the middle of them."""

from __future__ import annotations

from torch import Tensor

from dpclean.audit.attacks.feature_attack import FeatureAttack


class BullseyePolytope(FeatureAttack):
    name = "bullseye-polytope"
    paper = (
        "Aghakhani et al. 2021, 'Bullseye Polytope: A Scalable Clean-Label Poisoning Attack with Improved"
        " Transferability'"
    )
    about = "the mean of the poisons' features meets the target's"

    def loss(self, poisons: Tensor, target: Tensor) -> Tensor:
        return (poisons.mean(0) - target).square().sum() / target.square().sum()
