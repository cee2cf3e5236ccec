"""Which optimizer moves which parameters of a recipe, and the learning rate over the steps."""

from __future__ import annotations

import math

from torch import nn

from dpclean.optim import Muon, Optimizer, Sgd
from dpclean.train.recipes import Recipe

HEAD_LR, BIAS_LR, SGD_MOMENTUM, HEAD_DECAY = 0.67, 0.053, 0.85, 0.001  # of what Muon does not take, by Jordan 2024


def make_optimizers(network: nn.Module, head: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """Optimizers over what learns."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return [Sgd(learning, recipe.lr, recipe.momentum, recipe.weight_decay)]
    in_head = {id(parameter) for parameter in head.parameters()}
    filters = [p for p in learning if p.ndim == 4 and id(p) not in in_head]
    taken = {id(p) for p in filters} | in_head
    return [
        Sgd([p for p in learning if id(p) in in_head], HEAD_LR, SGD_MOMENTUM, HEAD_DECAY, nesterov=True),
        Sgd([p for p in learning if id(p) not in taken], BIAS_LR, SGD_MOMENTUM, nesterov=True),
        Muon(filters, recipe.lr, recipe.momentum),
    ]


def scale(recipe: Recipe, step: int, steps: int) -> float:
    """The factor on every learning rate at a step, from 0, of steps."""
    rise = recipe.warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    left = 1 - (step - rise) / (steps - rise)
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
