"""Muon for filters, SGD for the rest, and the learning rate over the steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dpclean.muon import orthogonalized
from dpclean.train.recipes import Recipe

HEAD_LR, BIAS_LR, SGD_MOMENTUM, HEAD_DECAY = 0.67, 0.053, 0.85, 0.001  # of what Muon does not take, by Jordan 2024


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose direction is made orthogonal; each filter bank keeps a norm of sqrt(outputs)."""

    def __init__(self, parameters: Any, lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                direction = parameter.grad.add(buffer, alpha=group["momentum"]).flatten(1)
                parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                parameter.add_(orthogonalized(direction).view(parameter.shape), alpha=-group["lr"])


def make_optimizers(network: nn.Module, head: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Optimizers over what learns. Each group keeps the learning rate that the schedule scales as "base"."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizers: list[torch.optim.Optimizer]
    if recipe.optimizer == "sgd":
        options: dict[str, Any] = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        optimizers = [torch.optim.SGD(learning, recipe.lr, **options)]
    else:
        in_head = {id(parameter) for parameter in head.parameters()}
        filters = [p for p in learning if p.ndim == 4 and id(p) not in in_head]
        taken = {id(p) for p in filters} | in_head
        groups = [
            {"params": [p for p in learning if id(p) in in_head], "lr": HEAD_LR, "weight_decay": HEAD_DECAY},
            {"params": [p for p in learning if id(p) not in taken], "lr": BIAS_LR},
        ]
        optimizers = [torch.optim.SGD([g for g in groups if g["params"]], momentum=SGD_MOMENTUM, nesterov=True)]
        if filters:
            optimizers.append(Muon(filters, recipe.lr, recipe.momentum))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return optimizers


def scale(recipe: Recipe, step: int, steps: int) -> float:
    """The factor on every learning rate at a step, from 0, of steps."""
    rise = recipe.warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    left = 1 - (step - rise) / (steps - rise)
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
