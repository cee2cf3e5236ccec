"""Projected gradient descent on images, along gradients that are averaged over draws of a defence's noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpclean.errors import Diverged, UsageError

NAME = "pgd"
PAPER = (
    "Madry et al. 2018, 'Towards Deep Learning Models Resistant to Adversarial Attacks'; through noise Athalye et al."
    " 2018, 'Obfuscated Gradients Give a False Sense of Security'"
)
ABOUT = (
    "changes test images by projected gradient descent, through a purifier along the mean of gradients at fresh draws"
    " of its noise; the model is there and nothing is trained"
)
LINF, L2 = "linf", "l2"
NORMS = (LINF, L2)
RATE = 1 / 4  # of eps: the length of a step
SHRINK = 0.98  # what a change is scaled by, again and again, where rounding has taken it beyond its bound

Look = Callable[[Tensor, int], Tensor]  # grey levels [N,C,H,W] and the number of a draw to logits [N,classes]


@dataclass(frozen=True)
class Budget:
    """How far an image may be changed: eps grey levels, of each pixel value (linf), or of the root of the sum of the
    squared changes of all (l2). Changes are float [N,C,H,W]. Raises UsageError for another norm.
    """

    norm: str
    eps: int

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UsageError(f"norm {self.norm!r} is not known", f"give one of: {', '.join(NORMS)}")

    def squares(self, values: int) -> int:
        """The largest sum of squared changes, in grey levels, of an image of so many pixel values."""
        return self.eps**2 * (values if self.norm == LINF else 1)

    def radius(self, values: int) -> float:
        """The same as a distance on the [0, 1] pixel scale, on which certificates have theirs."""
        return math.sqrt(self.squares(values)) / 255

    def beginning(self, normal: Tensor) -> Tensor:
        """A random change, from standard normal numbers: uniform (linf), or of full length in any direction (l2)."""
        if self.norm == LINF:
            return self.eps * torch.erf(normal / math.sqrt(2))
        return self.eps * normal / _lengths(normal)

    def uphill(self, slope: Tensor) -> Tensor:
        """One step."""
        return RATE * self.eps * (slope.sign() if self.norm == LINF else slope / _lengths(slope))

    def within(self, change: Tensor) -> Tensor:
        """The nearest change that is allowed."""
        if self.norm == LINF:
            return change.clamp(-self.eps, self.eps)
        return change * (self.eps / _lengths(change)).clamp(max=1)

    def in_grey_levels(self, change: Tensor) -> Tensor:
        """A change of whole grey levels, near an allowed one and as large as it if may be, that is allowed too."""
        whole, factor = change.round(), torch.ones(len(change), 1, 1, 1, device=change.device)
        while self.norm == L2 and (over := whole.double().square().sum((1, 2, 3)) > self.eps**2).any():
            factor[over] *= SHRINK
            whole = (change * factor).round()
        return whole


def attacked(
    images: Tensor,
    labels: Tensor,
    look: Look,
    budget: Budget,
    *,
    steps: int,
    draws: int,
    normal: Tensor,
    begun: tuple[int, Tensor] | None = None,
    on_draw: Callable[[], None] = lambda: None,
    on_step: Callable[[int, Tensor], None] = lambda step, change: None,
) -> Tensor:
    """Images in whole grey levels, float [N,C,H,W] as they were given, that are to have other classes than labels [N].

    look: as the attacker sees the model, with gradients; he adds up those of so many draws, numbered from 0 on, for
    each step. normal: standard normal [N,C,H,W], which decides where the descent begins. No image depends on others but
    by rounding. on_draw: is called after each, and may raise. on_step: is given how many steps are done, and the change
    so far; with both as begun it goes on from there. Raises Diverged where gradients are not finite.
    """
    done, change = begun or (0, _kept(images, budget.within(budget.beginning(normal))))
    for step in range(done, steps):
        slope = torch.zeros_like(images)
        for draw in range(step * draws, (step + 1) * draws):
            leaf = (images + change).requires_grad_()
            loss = functional.cross_entropy(look(leaf, draw), labels, reduction="sum")
            slope += torch.autograd.grad(loss, leaf)[0]
            on_draw()
        if not slope.isfinite().all():  # what failed would count as an attack that was withstood
            raise Diverged("the model's gradients are not finite", "give another --model")
        change = _kept(images, budget.within(change + budget.uphill(slope)))
        on_step(step + 1, change)
    return images + budget.in_grey_levels(change)


def _kept(images: Tensor, change: Tensor) -> Tensor:
    """A change that leaves images within what grey levels there are."""
    return (images + change).clamp(0, 255) - images


def _lengths(change: Tensor) -> Tensor:
    """[N,1,1,1], above 0."""
    lengths: Tensor = change.flatten(1).norm(dim=1)
    return lengths.clamp(min=1e-30).view(-1, 1, 1, 1)
