"""The descent itself: it goes as far as it may and no farther, downhill, and image by image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dpclean.audit.evasion.job import EvasionJob
from dpclean.audit.evasion.options import EvasionOptions
from dpclean.audit.evasion.pgd import L2, LINF, Budget, attacked
from dpclean.errors import Diverged, UsageError

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8))).float()
IMAGES[0] = 128.0
WEIGHTS = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 8, 8))).float()
NORMAL = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(0))


def linear(levels: Tensor, draw: int) -> Tensor:
    """Two classes, the first of them the more the images are like WEIGHTS."""
    score = (levels * WEIGHTS).sum((1, 2, 3)) / 255
    return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("norm", [LINF, L2])
def test_changes_are_whole_and_as_large_as_they_may_be(norm: str) -> None:
    budget, labels = Budget(norm, 8 if norm == LINF else 100), torch.zeros(3, dtype=torch.int64)
    found = attacked(IMAGES, labels, linear, budget, steps=12, draws=1, normal=NORMAL)
    change = found - IMAGES
    assert (found == found.round()).all() and 0 <= found.min() and found.max() <= 255
    squares = change.double().square().sum((1, 2, 3))
    if norm == LINF:
        assert change.abs().max() == 8
        assert torch.equal(change[0], -8 * WEIGHTS.sign())  # where no grey level is beyond black or white
        assert (squares <= budget.squares(192)).all()
    else:
        assert (squares <= 100**2).all() and squares.min() > 95**2
        cosine = -(change[0] * WEIGHTS).sum() / change[0].norm() / WEIGHTS.norm()
        assert cosine > 0.97  # grey levels are coarse for so small a change
    alone = attacked(IMAGES[1:2], labels[1:2], linear, budget, steps=12, draws=1, normal=NORMAL[1:2])
    assert torch.equal(alone[0], found[1])


def test_a_beginning_is_random_within_the_budget() -> None:
    begun = Budget(LINF, 8).beginning(NORMAL)
    assert begun.abs().max() <= 8 and begun.abs().mean() == pytest.approx(4, rel=0.1)  # uniform
    lengths = Budget(L2, 100).beginning(NORMAL).flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([100] * 3)


def test_a_budget_lies_within_a_distance() -> None:
    assert Budget(LINF, 8).radius(3072) == pytest.approx(8 / 255 * math.sqrt(3072))
    assert Budget(L2, 128).radius(3072) == pytest.approx(128 / 255)
    with pytest.raises(UsageError, match="norm 'l1' is not known"):
        Budget("l1", 8)


def test_gradients_come_through_noise_of_the_attackers_own(model: Path, test_images: Path, denoiser: Path) -> None:
    """They point down the loss behind the purifier, another draw of noise at each look, the same one for an image
    wherever it is.
    """
    options = EvasionOptions(
        model=str(model), test=test_images, sigma="0.1", denoiser=str(denoiser), device="cpu", workers=1, targets=6
    )
    job = EvasionJob(test_images.parent / "no", options)
    alone, behind = job.protected
    assert (alone.draws, behind.draws) == (1, 20)
    numbers = job.found.attacked.indices
    levels = torch.from_numpy(job.found.pixels).permute(0, 3, 1, 2).float()
    whole = behind.look(numbers)(levels, 3)
    assert torch.allclose(behind.look(numbers[2:4])(levels[2:4], 3), whole[2:4], atol=1e-4)
    assert (behind.look(numbers)(levels, 4) - whole).abs().max() > 0.01
    predicted = alone.look(numbers)(levels, 0).argmax(1).numpy()
    assert (predicted == alone.answers(job.found.pixels, numbers)[0]).all()


def test_gradients_that_are_not_finite_are_no_attack_that_was_withstood() -> None:
    with pytest.raises(Diverged, match="gradients are not finite"):
        attacked(
            IMAGES, torch.zeros(3, dtype=torch.int64), lambda levels, draw: linear(levels, draw) * math.inf,
            Budget(LINF, 8), steps=2, draws=1, normal=NORMAL,
        )  # fmt: skip
