"""Optimizers over tensors that stay where they are: SGD, and Muon for both kinds of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315


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
    """Nesterov momentum whose direction is made orthogonal (Jordan et al. 2024), for banks of filters.

    Without decay each bank keeps a norm of sqrt(outputs), as in Jordan's recipe for CIFAR-10. With decay momentum is
    an average of gradients, weights decay on their own, and a bank of more outputs than inputs takes longer steps, by
    the root of their ratio, as in torch.optim.Muon.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, decay: float | None = None
    ) -> None:
        super().__init__(parameters, lr, momentum)
        self.decay = decay
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
        if self.decay is None:
            momentum.mul_(self.momentum).add_(gradient)
            direction = gradient.add(momentum, alpha=self.momentum).flatten(1)
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        else:
            momentum.lerp_(gradient, 1 - self.momentum)
            direction = gradient.lerp(momentum, self.momentum).flatten(1)
            parameter.mul_(1 - rate * self.decay)
            rate = rate * max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
        parameter.sub_(orthogonalized(direction).view(parameter.shape) * rate)


def orthogonalized(gradient: Tensor, steps: int = 3) -> Tensor:
    """The nearest semi-orthogonal matrix to [M,N], roughly: an update whose singular values are all about one.

    By a quintic Newton-Schulz iteration in half precision. Jordan et al., "Muon: an optimizer for hidden layers in
    neural networks", 2024.
    """
    matrix = gradient.bfloat16()
    matrix = matrix / (matrix.norm() + 1e-7)
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    for _ in range(steps):
        square = matrix @ matrix.T
        matrix = _A * matrix + (_B * square + _C * square @ square) @ matrix
    found: Tensor = (matrix.T if tall else matrix).to(gradient.dtype)
    return found
