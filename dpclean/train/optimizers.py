"""Muon for filters, SGD for the rest, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpclean.muon import orthogonalized
from dpclean.train.recipes import Recipe

HEAD_LR, BIAS_LR, SGD_MOMENTUM, HEAD_DECAY = 0.67, 0.053, 0.85, 0.001  # of what Muon does not take, by Jordan 2024


class Optimizer:
    """Parameters and their momenta, float tensors that stay where they are, and a step without a wait for the host."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float) -> None:
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.momenta = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self, factor: Tensor) -> None:
        """Moves what has a gradient, at the learning rate times factor, float32 [], on the parameters' device."""
        raise NotImplementedError


class Sgd(Optimizer):
    """Momentum, plain or Nesterov's; weight decay is part of the gradient. As torch.optim.SGD."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(parameters, lr, momentum)
        self.decay, self.nesterov = decay, nesterov

    @torch.no_grad()
    def step(self, factor: Tensor) -> None:
        found = [(p, p.grad, m) for p, m in zip(self.parameters, self.momenta, strict=True) if p.grad is not None]
        if not found:
            return
        parameters, gradients, momenta = ([row[i] for row in found] for i in range(3))
        if self.decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self.decay))
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, gradients)
        directions = torch._foreach_add(gradients, momenta, alpha=self.momentum) if self.nesterov else momenta
        torch._foreach_sub_(parameters, torch._foreach_mul(directions, factor * self.lr))


class Muon(Optimizer):
    """Nesterov momentum whose direction is made orthogonal; each filter bank keeps a norm of sqrt(outputs)."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(parameters, lr, momentum)
        # one filter bank is too small for a GPU: all are done at the same time
        self._streams = [torch.cuda.Stream(p.device) for p in self.parameters if p.is_cuda]

    @torch.no_grad()
    def step(self, factor: Tensor) -> None:
        rate = factor * self.lr
        for place, (parameter, momentum) in enumerate(zip(self.parameters, self.momenta, strict=True)):
            if parameter.grad is None:
                continue
            if parameter.is_cuda:
                self._streams[place].wait_stream(torch.cuda.current_stream(parameter.device))
                with torch.cuda.stream(self._streams[place]):
                    self._move(parameter, parameter.grad, momentum, rate)
            else:
                self._move(parameter, parameter.grad, momentum, rate)
        for parameter, stream in zip(self.parameters, self._streams, strict=False):
            if parameter.grad is not None:
                torch.cuda.current_stream(parameter.device).wait_stream(stream)

    def _move(self, parameter: nn.Parameter, gradient: Tensor, momentum: Tensor, rate: Tensor) -> None:
        momentum.mul_(self.momentum).add_(gradient)
        direction = gradient.add(momentum, alpha=self.momentum).flatten(1)
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        parameter.sub_(orthogonalized(direction).view(parameter.shape) * rate)


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
