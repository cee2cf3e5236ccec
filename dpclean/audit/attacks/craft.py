"""How poisons are made: the loss of an attack, made small by Adam within the allowed change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dpclean.audit.attacks.attack import Attack
from dpclean.audit.attacks.perturbation import Perturbation
from dpclean.audit.attacks.surrogate import Surrogate

WINDOW = 30  # steps whose mean loss is compared with that of as many before
LEAST_GAIN = 0.01  # of the loss from one window to the next: below it, it has stopped falling
RATE = 1 / 8  # of eps, the first steps; the later ones are smaller


@dataclass(frozen=True)
class Crafted:
    """Poisons uint8 [H,W,C], and how far the mean of their rows is from the target's, as a share of its length."""

    pixels: list[NDArray[np.uint8]]
    steps: int
    distance_before: float
    distance_after: float


def craft(
    attack: Attack,
    surrogate: Surrogate,
    bases: Sequence[NDArray[np.uint8]],
    target: NDArray[np.uint8],
    target_class: int,
    *,
    eps: int,
    most_steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> Crafted:
    """Change bases [H,W,C] until the loss stops falling. on_step: is called after each step, and may raise."""
    changed = Perturbation(bases, eps, surrogate.device)
    wanted = surrogate.row_of(target)
    optimizer = torch.optim.Adam(changed.changes, lr=RATE * eps)
    losses: list[float] = []
    before = 0.0
    while len(losses) < most_steps and not _has_stopped(losses):
        rows = changed.rows(surrogate)
        if not losses:
            before = _distance(rows, wanted)
        loss = attack.loss(rows, wanted) + surrogate.pull(rows, target_class)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * eps * (1 - len(losses) / most_steps)
        optimizer.step()
        changed.clip()
        losses.append(float(loss.detach()))
        on_step()
    with torch.no_grad():
        after = _distance(changed.rows(surrogate), wanted)
    return Crafted(changed.pixels(), len(losses), before, after)


def _has_stopped(losses: Sequence[float]) -> bool:
    if len(losses) < 2 * WINDOW or len(losses) % WINDOW:
        return False
    last, one_before = np.mean(losses[-WINDOW:]), np.mean(losses[-2 * WINDOW : -WINDOW])
    return bool(last > (1 - LEAST_GAIN) * one_before)


def _distance(rows: torch.Tensor, target: torch.Tensor) -> float:
    return float((rows.detach().mean(0) - target).norm() / target.norm().clamp(min=1e-12))
