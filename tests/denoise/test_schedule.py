"""The timestep that belongs to a noise level."""

from __future__ import annotations

import numpy as np
import pytest

from dpclean.denoise.schedule import match
from dpclean.errors import UsageError

ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def sigma_at(timestep: int) -> float:
    abar = ALPHAS_CUMPROD[timestep]
    return float(np.sqrt((1 - abar) / abar) / 2)


@pytest.mark.parametrize("timestep", [1, 7, 250, 998])
def test_a_level_of_the_schedule_gets_its_own_timestep(timestep: int) -> None:
    level = match(ALPHAS_CUMPROD, sigma_at(timestep))
    assert level.timestep == pytest.approx(timestep, abs=1e-6)
    assert level.alphas_cumprod == pytest.approx(ALPHAS_CUMPROD[timestep], rel=1e-12)


def test_sigma_counts_double_on_the_scale_of_the_model() -> None:
    # known mistake: abar = 1 / (1 + sigma^2) would tell the network half of the noise
    assert match(ALPHAS_CUMPROD, 0.5).alphas_cumprod == 0.5


def test_timesteps_rise_with_sigma_and_lie_between_neighbours() -> None:
    timesteps = [match(ALPHAS_CUMPROD, sigma).timestep for sigma in np.geomspace(0.006, 3, 50)]
    assert timesteps == sorted(timesteps)
    assert any(t != int(t) for t in timesteps)


@pytest.mark.parametrize("sigma", [sigma_at(0) * 0.99, sigma_at(999) * 1.01])
def test_a_level_outside_the_schedule_is_refused_with_the_range(sigma: float) -> None:
    with pytest.raises(UsageError) as refusal:
        match(ALPHAS_CUMPROD, sigma)
    low, high = (float(word.rstrip(",")) for word in refusal.value.remedy.split() if word[0].isdigit())
    assert match(ALPHAS_CUMPROD, low).timestep < 1
    assert match(ALPHAS_CUMPROD, high).timestep > 998


def test_a_schedule_that_ends_in_pure_noise_still_has_its_finite_levels() -> None:
    zero_terminal = ALPHAS_CUMPROD.copy()
    zero_terminal[-1] = 0.0
    assert match(zero_terminal, 0.25).timestep == match(ALPHAS_CUMPROD, 0.25).timestep
