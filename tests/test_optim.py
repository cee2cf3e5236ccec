"""Muon's direction, and its two ways to keep weights from growing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpclean.optim import Muon, orthogonalized


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(16, 100), (100, 16), (32, 32)])
def test_directions_become_nearly_orthogonal(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=generator()) * torch.logspace(-1, 1, shape[1])
    values = torch.linalg.svdvals(orthogonalized(gradient, steps=8))
    assert 0.5 < values.min() and values.max() < 1.5


def moved(shape: tuple[int, ...], decay: float | None, gradient: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A bank of filters before and after a step at rate 0.1."""
    bank = nn.Parameter(torch.randn(shape, generator=generator()))
    before = bank.detach().clone()
    bank.grad = gradient * torch.randn(shape, generator=generator().manual_seed(1))
    Muon([bank], 0.2, 0.9, decay).step(torch.tensor(0.5))
    return before, bank.detach()


def test_a_bank_without_decay_is_brought_to_its_norm_and_one_with_decay_shrinks() -> None:
    _, kept = moved((16, 4, 3, 3), None, 0.0)
    assert kept.norm() == pytest.approx(4.0)
    before, shrunk = moved((16, 4, 3, 3), 0.25, 0.0)
    torch.testing.assert_close(shrunk, before * (1 - 0.1 * 0.25))


@pytest.mark.parametrize(("shape", "length"), [((16, 64, 1, 1), 1.0), ((64, 16, 1, 1), 2.0)])
def test_a_tall_bank_with_decay_takes_longer_steps(shape: tuple[int, ...], length: float) -> None:
    before, after = moved(shape, 0.0, 1.0)
    sizes = torch.linalg.svdvals((after - before).flatten(1)) / 0.1
    assert sizes.mean() == pytest.approx(length, rel=0.3)
