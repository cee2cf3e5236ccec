"""The pieces of a step: flips and translations, learning rates, whitened patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpclean.train.augment import augmented, first_flips, flips, shifts
from dpclean.train.networks import Residual, build
from dpclean.train.optimizers import scale
from dpclean.train.recipes import find_recipe
from tests.train.pictures import tensors

RECIPE = find_recipe("tiny")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_image_is_moved_by_whole_pixels_with_its_border_mirrored() -> None:
    images = torch.rand(64, 3, 9, 9, generator=generator())
    moved = augmented(images, torch.zeros(64, dtype=torch.bool), 2, shifts(2, 64, generator()))
    found = set()
    for image, result in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        places = [(y, x) for y in range(5) for x in range(5) if np.array_equal(padded[:, y : y + 9, x : x + 9], result)]
        assert len(places) == 1
        found.add(places[0])
    assert {y for y, _ in found} == {x for _, x in found} == set(range(5))


def test_flips_mirror_whole_images_and_without_a_shift_nothing_moves() -> None:
    images = torch.rand(4, 3, 9, 9, generator=generator())
    flip = torch.tensor([True, False, True, False])
    result = augmented(images, flip, 0, shifts(0, 4, generator()))
    assert torch.equal(result[1::2], images[1::2]) and torch.equal(result[::2], images[::2].flip(3))


def test_alternating_flips_show_each_side_once_in_two_epochs() -> None:
    first = first_flips(1000, generator())
    even, odd, next_even = (flips(RECIPE, first, epoch, generator(epoch)) for epoch in range(3))
    assert torch.equal(even, ~odd) and torch.equal(even, next_even) and 400 < even.sum() < 600
    drawn = [flips(replace(RECIPE, flip="random"), first, epoch, generator(epoch)) for epoch in range(2)]
    assert 400 < (drawn[0] ^ drawn[1]).sum() < 600
    assert not flips(replace(RECIPE, flip="none"), first, 1, generator()).any()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_rises_over_the_warm_up_and_then_falls(schedule: str) -> None:
    recipe = replace(RECIPE, schedule=schedule, warmup=0.2)
    factors = [scale(recipe, step, 100) for step in range(100)]
    assert factors[:20] == sorted(factors[:20]) and factors[20:] == sorted(factors[20:], reverse=True)
    assert max(factors) == factors[20] == 1 and 0 < factors[-1] < 0.02


def test_the_first_layer_whitens_the_images_it_was_set_from() -> None:
    network = build(RECIPE, 2, 0)
    assert isinstance(network, Residual)
    images = tensors(20)[0].permute(0, 3, 1, 2).float() / 64 - 2
    network.set_whitening(images)
    outputs = torch.nn.functional.conv2d(images, network.whiten.weight)[:, :12].transpose(0, 1).flatten(1)
    covariance = outputs @ outputs.T / outputs.shape[1]
    assert (covariance - torch.eye(12)).abs().max() < 0.05
