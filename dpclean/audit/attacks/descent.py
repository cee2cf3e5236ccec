"""How changes of images are found: a loss, made small by Adam within what is allowed, until it stops falling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dpclean.audit.attacks.perturbation import Perturbation, SharedChange

WINDOW = 30  # steps whose mean loss is compared with that of as many before
LEAST_GAIN = 0.01  # of the loss from one window to the next: below it, it has stopped falling
RATE = 1 / 8


def descend(
    changed: Perturbation | SharedChange,
    loss: Callable[[], Tensor],
    *,
    most_steps: int,
    on_step: Callable[[], None],
    rate: float = RATE,
) -> list[float]:
    """The loss before each step that was done. rate: of eps, the first steps; the later ones are smaller. on_step: is
    called after each, and may raise.
    """
    optimizer = torch.optim.Adam(changed.changes, lr=rate * changed.eps)
    losses: list[float] = []
    while len(losses) < most_steps and not _has_stopped(losses):
        now = loss()
        optimizer.zero_grad()
        now.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * changed.eps * (1 - len(losses) / most_steps)
        optimizer.step()
        changed.clip()
        losses.append(float(now.detach()))
        on_step()
    return losses


def _has_stopped(losses: Sequence[float]) -> bool:
    if len(losses) < 2 * WINDOW or len(losses) % WINDOW:
        return False
    last, one_before = np.mean(losses[-WINDOW:]), np.mean(losses[-2 * WINDOW : -WINDOW])
    return bool(last > (1 - LEAST_GAIN) * one_before)
