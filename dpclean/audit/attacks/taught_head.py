"""The head that a victim would learn from poisons, and which way each of them moves its answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SOLVING, EXACT = 30, 1e-2  # conjugate gradients at each look: the most, and the share of a system that is left unsolved
HALVINGS = 20  # of a step that does not lower the loss

Linear = Callable[[Tensor], Tensor]


class TaughtHead:
    """The victim's logistic regression, L2 penalty with C = 1, on rows of which some are poisons.

    It follows the poisons by a Newton step at each look, shortened until the loss falls. Its answer's gradient to them
    is that of the head at its optimum: Mei and Zhu 2015, "Using Machine Teaching to Identify Optimal Training-Set
    Attacks on Machine Learners".
    """

    def __init__(self, rows: Tensor, labels: Tensor, weights: Tensor) -> None:
        """rows [N,D], labels int64 [N]: of the other images, standardised. weights [D+1,classes]: where it begins, the
        last row the bias.
        """
        self._rows, self._weights = _with_one(rows), weights.clone()
        self._wanted = functional.one_hot(labels, weights.shape[1]).to(rows.dtype)
        self._felt = torch.zeros_like(weights)
        self._penalty = torch.ones_like(weights)
        self._penalty[-1] = 0  # the bias is free

    def mistake(self, poisons: Tensor, label: int, asked: Tensor) -> Tensor:
        """How far it is from taking rows [K,D] for a class after it has learned poisons [P,D] as of this class.

        The mean cross-entropy, with its gradient to the poisons.
        """
        poisons, asked = _with_one(poisons), _with_one(asked)
        as_told = torch.zeros(len(poisons), self._wanted.shape[1], device=poisons.device, dtype=poisons.dtype)
        as_told[:, label] = 1
        with torch.no_grad():
            rows, wanted = torch.cat([self._rows, poisons]), torch.cat([self._wanted, as_told])
            self._learn(rows, wanted)
        weights = self._weights.clone().requires_grad_()
        loss = functional.cross_entropy(asked @ weights, torch.full((len(asked),), label, device=asked.device))
        (of_weights,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():  # what moves the weights moves the loss by this much; begun where the last look ended
            self._felt = solved(self._curvature(rows), of_weights, self._felt)
        pushed = poisons.T @ (_shares(poisons, self._weights) - as_told)
        moved = (self._felt * pushed).sum()
        return loss.detach() - (moved - moved.detach())

    def _learn(self, rows: Tensor, wanted: Tensor) -> None:
        slope = rows.T @ (_shares(rows, self._weights) - wanted) + self._penalty * self._weights
        step = solved(self._curvature(rows), slope, torch.zeros_like(slope))
        before, promised = self._loss(rows, wanted, self._weights), (slope * step).sum()
        for halved in range(HALVINGS):
            weights = self._weights - step / 2**halved
            if self._loss(rows, wanted, weights) <= before - 1e-4 * promised / 2**halved:  # Armijo's condition
                self._weights = weights
                return

    def _loss(self, rows: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
        away = functional.cross_entropy(rows @ weights, wanted, reduction="sum")
        return away + (self._penalty * weights.square()).sum() / 2

    def _curvature(self, rows: Tensor) -> Linear:
        """The second derivative of the loss, times [D+1,classes]."""
        shares = _shares(rows, self._weights)

        def times(direction: Tensor) -> Tensor:
            moved = shares * (rows @ direction)
            return rows.T @ (moved - shares * moved.sum(1, keepdim=True)) + self._penalty * direction

        return times


def solved(times: Linear, wanted: Tensor, start: Tensor) -> Tensor:
    """x with times(x) = wanted, nearly, by conjugate gradients; times: linear, symmetric, of no negative direction."""
    found, rest = start.clone(), wanted - times(start)
    step, size = rest.clone(), rest.square().sum()
    enough = EXACT**2 * wanted.square().sum()
    for _ in range(SOLVING):
        if size <= enough:
            break
        bent = times(step)
        if (curved := (step * bent).sum()) <= 0:  # flat to all digits there are: nothing more is to be had
            break
        along = size / curved
        found += along * step
        rest = rest - along * bent
        size, before = rest.square().sum(), size
        step = rest + size / before * step
    return found


def _shares(rows: Tensor, weights: Tensor) -> Tensor:
    return (rows @ weights).softmax(1)


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
