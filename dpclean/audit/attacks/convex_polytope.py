"""Convex polytope: the poisons surround the target, which lies anywhere between them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpclean.audit.attacks.feature_attack import FeatureAttack

SUM = 1e3  # how much it counts that weights sum to 1, beside rows of length about 1


class ConvexPolytope(FeatureAttack):
    name = "convex-polytope"
    paper = "Zhu et al. 2019, 'Transferable Clean-Label Poisoning Attacks on Deep Neural Nets'"
    about = "some weighted mean of the poisons' features meets the target's"

    def loss(self, poisons: Tensor, target: Tensor) -> Tensor:
        weights = nearest_mean(poisons.detach(), target)
        return (weights @ poisons - target).square().sum() / target.square().sum()


def nearest_mean(rows: Tensor, target: Tensor) -> Tensor:
    """The weights [P], none below 0 and 1 in sum, whose mean of rows [P,D] is nearest to the target [D]."""
    from scipy.optimize import nnls

    length = float(target.norm().clamp(min=1e-12))
    columns = (rows / length).T.cpu().double().numpy()
    system = np.concatenate([columns, np.full((1, len(rows)), SUM)])
    found, _ = nnls(system, np.append((target / length).cpu().double().numpy(), SUM))
    return torch.from_numpy(found / found.sum()).to(rows)
