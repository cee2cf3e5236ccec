"""Where a noise level stands on a diffusion schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dpclean.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


class Schedule(NamedTuple):
    """What a scheduler's configuration says of its denoiser, in diffusers' words."""

    alphas_cumprod: np.ndarray  # float64 [T], falling
    prediction_type: str
    variance_type: str


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level matched to a schedule.

    sigma is on the [0, 1] pixel scale. The model works on [-1, 1], where the same noise
    has standard deviation 2 sigma, hence alphas_cumprod = 1 / (1 + (2 sigma)^2).
    """

    sigma: float
    alphas_cumprod: float
    timestep: float


def match(alphas_cumprod: np.ndarray, sigma: float) -> NoiseLevel:
    """The fractional timestep at which the schedule has the noise level sigma.

    alphas_cumprod: float [T], falling, one value a timestep. Between neighbours the timestep is
    linear in log((1 - abar) / abar). The noise itself is always drawn at sigma; the timestep
    only tells the network how much to expect.
    Raises UsageError where the schedule does not reach sigma, with the range that it covers.
    Source: Carlini et al. 2022, "(Certified!!) Adversarial Robustness for Free!", section 3,
    with a fractional timestep in place of the nearest.
    """
    import numpy as np

    if sigma == 0:
        return NoiseLevel(0.0, 1.0, 0.0)
    abar = 1.0 / (1.0 + (2.0 * sigma) ** 2)
    log_noise = _log_noise(alphas_cumprod)
    wanted = math.log((1.0 - abar) / abar) if abar < 1 else -math.inf
    if not log_noise[0] <= wanted <= log_noise[-1]:
        low, high = (math.exp(value / 2) / 2 for value in (log_noise[0], log_noise[-1]))
        raise UsageError(
            f"sigma {sigma:g} is outside the denoiser's schedule",
            f"choose --sigma between {math.ceil(low * 1e4) / 1e4:g} and "
            f"{math.floor(min(high, 1e6) * 1e4) / 1e4:g}, or another --denoiser",
        )
    return NoiseLevel(sigma, abar, float(np.interp(wanted, log_noise, np.arange(len(log_noise)))))


def at(alphas_cumprod: np.ndarray, timestep: float) -> NoiseLevel:
    """The noise level at a fractional timestep of a schedule, between neighbours as `match` has it."""
    import numpy as np

    log_noise = _log_noise(alphas_cumprod)
    ratio = math.exp(float(np.interp(timestep, np.arange(len(log_noise)), log_noise)))  # (1 - abar) / abar
    return NoiseLevel(ratio**0.5 / 2, 1 / (1 + ratio), timestep)


def _log_noise(alphas_cumprod: np.ndarray) -> np.ndarray:
    """log((1 - abar) / abar), float64 [T], rising."""
    import numpy as np

    schedule = np.asarray(alphas_cumprod, np.float64)
    # a schedule rescaled to zero terminal SNR ends at abar = 0, which no finite sigma reaches
    return np.log(1.0 - schedule) - np.log(np.maximum(schedule, 1e-300))
