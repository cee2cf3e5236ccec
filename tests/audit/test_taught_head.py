"""The head that is followed as poisons change, against one that is learned anew, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dpclean.audit.attacks.taught_head import TaughtHead, solved
from dpclean.audit.victims.heads import Logistic

CLASSES, LOOKS = 3, 30  # after so many it has come to rest


def learned(rows: np.ndarray, labels: np.ndarray) -> Tensor:
    """[D+1,classes], for rows as they are."""
    head = Logistic().fit(rows, labels, CLASSES)
    weights = head.weights[:-1] / head.scale[:, None]
    return torch.from_numpy(np.concatenate([weights, [head.weights[-1] - head.centre @ weights]]))


@pytest.fixture
def made() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised rows that overlap, their labels, poisons and a target."""
    random = np.random.default_rng(1)
    labels = np.arange(120) % CLASSES
    rows = random.normal(size=(120, 4)) + np.eye(CLASSES, 4)[labels]
    rows = (rows - rows.mean(0)) / rows.std(0)
    poisons, target = random.normal(size=(6, 4)), rows[:1] * 1.5
    return torch.from_numpy(rows), torch.from_numpy(labels), torch.from_numpy(poisons), torch.from_numpy(target)


def at_rest(rows: Tensor, labels: Tensor, poisons: Tensor, target: Tensor) -> Tensor:
    head = TaughtHead(rows, labels, torch.zeros(rows.shape[1] + 1, CLASSES, dtype=rows.dtype))
    for _ in range(LOOKS):
        found = head.mistake(poisons, 2, target)
    return found


def test_it_learns_what_the_victim_would(made: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rows, labels, poisons, target = made
    together = torch.cat([rows, poisons]).float().numpy()
    centre, scale = together.mean(0), together.std(0)
    given = [torch.from_numpy((part.numpy() - centre) / scale) for part in (rows, poisons, target)]
    weights = learned((together - centre) / scale, np.append(labels.numpy(), [2] * len(poisons)))
    scores = torch.cat([given[2], torch.ones(1, 1)], 1).double() @ weights
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([2]))
    assert float(at_rest(given[0], labels, given[1], given[2])) == pytest.approx(float(expected), rel=1e-3)


def test_its_gradient_is_that_of_learning_anew(made: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rows, labels, poisons, target = made
    poisons.requires_grad_()
    (gradient,) = torch.autograd.grad(at_rest(rows, labels, poisons, target), poisons)
    direction = torch.randn(poisons.shape, generator=torch.Generator().manual_seed(2), dtype=poisons.dtype)
    step = 1e-4 * direction
    moved = [float(at_rest(rows, labels, (poisons + sign * step).detach(), target)) for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=0.03)


def test_it_stays_at_its_optimum_where_whole_steps_would_run_away(made: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Classes far apart, and poisons that jump among them: far off the loss is flat, and a Newton step is huge."""
    rows, labels, poisons, target = made
    rows = 3 * rows + 12 * torch.eye(CLASSES, 4, dtype=rows.dtype)[labels]
    head = TaughtHead(rows, labels, torch.zeros(rows.shape[1] + 1, CLASSES, dtype=rows.dtype))
    for look in range(LOOKS):
        head.mistake(40 * (-1) ** look * poisons, 2, target)
    for _ in range(LOOKS):
        found = head.mistake(poisons, 2, target)
    assert float(found) == pytest.approx(float(at_rest(rows, labels, poisons, target)), rel=1e-3)
    assert float(at_rest(rows, labels, poisons, target)) < 20


def test_a_system_with_a_direction_that_changes_nothing_is_solved() -> None:
    matrix = torch.tensor([[2.0, 1, 0], [1, 3, 0], [0, 0, 0]])
    wanted = torch.tensor([1.0, -1, 0])
    found = solved(lambda x: matrix @ x, wanted, torch.tensor([5.0, 5, 7]))
    torch.testing.assert_close(matrix @ found, wanted, atol=0.03, rtol=0)
    assert found[2] == 7
    assert solved(lambda x: matrix @ x, torch.zeros(3), torch.zeros(3)).abs().sum() == 0
