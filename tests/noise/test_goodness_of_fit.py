"""The short form of benchmarks/noise_goodness_of_fit.py: a fixed key, so the outcome is always the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from dpclean.noise import add_noise
from dpclean.noise.table import upper_tail_counts
from tests.noise.known import KEY


@pytest.mark.parametrize("sigma", [0.02, 0.25, 1.0])
def test_draws_follow_the_rounded_gaussian(sigma: float, kernel: str) -> None:
    images = np.zeros((64, 128, 128, 3), np.uint8)  # 3.1 million draws
    z = add_noise(images, sigma, key=KEY, run=5, indices=np.arange(64)).reshape(64, -1)
    tails = np.array([*upper_tail_counts(sigma), 0], dtype=object)
    up = (tails[:-1] - tails[1:]).astype(float) / 2.0**96
    p = np.array([*up[::-1], 1 - 2 * float(tails[0]) / 2.0**96, *up])
    k = len(up)
    counts, expected = np.bincount(z.ravel() + k, minlength=2 * k + 1), p * z.size
    body = expected >= 20
    statistic = ((counts - expected)[body] ** 2 / expected[body]).sum()
    tail = (counts[~body].sum() - expected[~body].sum()) ** 2 / max(expected[~body].sum(), 1)
    assert 1e-3 < chi2.sf(statistic + tail, body.sum()) < 1 - 1e-3

    variance = (p * np.arange(-k, k + 1.0) ** 2).sum()
    x = z / variance**0.5
    errors = [
        x.sum() / x.size**0.5,
        (x[:, 1:] * x[:, :-1]).sum() / x.size**0.5,
        (x[:, 16:] * x[:, :-16]).sum() / x.size**0.5,
        (x[1:] * x[:-1]).sum() / x.size**0.5,
    ]
    assert max(abs(e) for e in errors) < 4
