"""A smoothed classifier whose true radius is known in closed form, under the real noise: claims stay below it.

Each run noises a data set of one small image and trains a rule on it: class 1 if its mean brightness is above a
threshold, else class 0. The threshold lies TRUE_RADIUS below the data, in the direction that changes brightness at the
least distance, so p_1 = Phi((TRUE_RADIUS - distance) / sigma), but for the rounding of the noise to whole levels.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.noise import add_noise
from dpclean.noise.keys import key_from_seed

LEVEL, SIGMA = 128, 0.25
SHAPE = (1, 2, 2, 3)
ONE_LEVEL = math.sqrt(math.prod(SHAPE)) / 255  # the distance when all pixel values move by one grey level
TRUE_RADIUS = 1.2 * SIGMA


def votes_for_1(moved: int, runs: int, seed: int) -> int:
    """How many of the runs vote for class 1 when all pixels of the data set are darker by that many levels."""
    key = key_from_seed(seed, "test")
    images = np.full(SHAPE, LEVEL - moved, np.uint8)
    threshold = LEVEL - TRUE_RADIUS / ONE_LEVEL
    return sum(
        float(add_noise(images, SIGMA, key=key, run=run, indices=[0]).mean()) > threshold for run in range(1, runs + 1)
    )


def radius(bound: str, runs: int, seed: int) -> float:
    """What is certified of the data set that was not moved."""
    k = votes_for_1(0, runs, seed)
    made = find_bound(bound).claim(ClaimSettings(runs, Fraction("0.001"), Fraction("0.25"), Fraction(0)), k, runs - k)
    assert made is not None
    return float(made.radius)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_published_radius_is_below_the_true_one(bound: str) -> None:
    found = [radius(bound, 300, seed) for seed in range(5)]
    assert TRUE_RADIUS / 2 < min(found) and max(found) < TRUE_RADIUS


def test_with_more_runs_the_radius_comes_near_the_true_one() -> None:
    # twice the sigma, or one on the scale of -1 to 1, would show here as a radius far off
    assert 0.85 * TRUE_RADIUS < radius("union", 3000, seed=0) < TRUE_RADIUS


@pytest.mark.parametrize("within", [True, False])
def test_a_data_set_moved_just_inside_keeps_the_vote_and_just_past_the_true_radius_flips_it(within: bool) -> None:
    runs = 4000
    certified, true = radius("union", 1000, seed=0) / ONE_LEVEL, TRUE_RADIUS / ONE_LEVEL
    for moved in (math.floor(certified), math.floor(true) - 1) if within else (math.ceil(true) + 1,):
        share = votes_for_1(moved, runs, seed=1) / runs
        expected = NormalDist().cdf((TRUE_RADIUS - moved * ONE_LEVEL) / SIGMA)
        assert abs(share - expected) < 4 * math.sqrt(0.25 / runs)
        assert (share > 0.5) == within
