"""The losses of attacks: 0 where an attack has what it wants, and not where it has not."""

from __future__ import annotations

import pytest
import torch

from dpclean.audit.attacks import ATTACKS, find_attack
from dpclean.audit.attacks.convex_polytope import nearest_mean
from dpclean.errors import UsageError

TARGET = torch.tensor([2.0, 1.0, 0.0])
DOUBLES = TARGET.repeat(3, 1)
AROUND = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [2.0, 0.0, 0.0]])  # their mean is the target
ASIDE = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, -1.0], [9.0, 9.0, 9.0]])  # it lies between two of them
AWAY = TARGET + torch.tensor([0.0, 0.0, 5.0])


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("feature-collision", [DOUBLES]),
        ("bullseye-polytope", [DOUBLES, AROUND]),
        ("convex-polytope", [DOUBLES, AROUND, ASIDE]),
    ],
)
def test_each_attack_wants_what_its_paper_says(name: str, there: list[torch.Tensor]) -> None:
    attack = find_attack(name)
    for rows in (DOUBLES, AROUND, ASIDE, AWAY.repeat(3, 1)):
        wanted = any(rows is one for one in there)
        assert (float(attack.loss(rows, TARGET)) < 1e-5) == wanted
    slope = AWAY.repeat(3, 1).requires_grad_()
    attack.loss(slope, TARGET).backward()
    assert slope.grad is not None and float(slope.grad[:, 2].sum()) > 0
    scaled = [float(attack.loss(scale * (AROUND + 1), scale * TARGET)) for scale in (1.0, 100.0)]
    assert scaled[0] == pytest.approx(scaled[1], rel=1e-4)  # the same for features of any size


def test_the_nearest_mean_is_one() -> None:
    weights = nearest_mean(ASIDE, TARGET)
    assert torch.allclose(weights, torch.tensor([0.5, 0.5, 0.0]), atol=1e-5)


def test_unknown_attacks_are_told_what_there_is() -> None:
    with pytest.raises(UsageError) as refused:
        find_attack("bullseye")
    assert all(name in refused.value.remedy for name in ATTACKS)
