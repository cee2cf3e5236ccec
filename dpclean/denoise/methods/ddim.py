"""Several evaluations of the network: deterministic DDIM, Song et al. 2021 ("Denoising Diffusion Implicit Models").

Equation 12 with eta = 0: x at the next level is sqrt(abar') x0 + sqrt(1 - abar') eps, where x0 and eps are
those that the network predicts at this one. The timesteps are evenly spaced from the images' own t* down: t*,
t* (k-1)/k, ..., t*/k, as diffusers' "trailing" spacing has them from the schedule's end; they may be fractional. The
last prediction of x0 is the result. Before it goes into the next x, x0 is clamped to [-1, 1] and eps is not, as
diffusers' DDIMScheduler does with clip_sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from dpclean.denoise import schedule
from dpclean.denoise.methods.method import Evaluation, Noise
from dpclean.denoise.schedule import NoiseLevel
from dpclean.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MOST_STEPS = 100  # beyond it nothing is gained, and on a GPU each step keeps a captured graph


@dataclass(frozen=True)
class Ddim:
    """Deterministic: it needs no randomness beside the noise in the images."""

    steps: int
    form: ClassVar[str] = "ddim:STEPS"

    @classmethod
    def of(cls, argument: str | None) -> Self:
        canonical = argument is not None and argument.isascii() and argument.isdigit() and argument[0] != "0"
        if argument is None or not canonical or len(argument) > 3 or not 2 <= int(argument) <= MOST_STEPS:
            raise UsageError(
                f"method ddim takes a number of steps from 2 to {MOST_STEPS}, as in ddim:4, got {argument or 'none'}",
                "one step is --method one-step",
            )
        return cls(int(argument))

    @property
    def name(self) -> str:
        return f"ddim:{self.steps}"

    def levels(self, start: NoiseLevel, alphas_cumprod: np.ndarray) -> Sequence[NoiseLevel]:
        if start.timestep == 0:  # there is nothing below it
            return (start,)
        timesteps = (start.timestep * (self.steps - step) / self.steps for step in range(1, self.steps))
        return (start, *(schedule.at(alphas_cumprod, timestep) for timestep in timesteps))

    def result_type(self, prediction_type: str) -> str:
        return "sample"

    def denoise(self, noised: Tensor, evaluations: Sequence[Evaluation], prediction_type: str, noise: Noise) -> Tensor:
        x = noised.float()
        for step, (level, network) in enumerate(evaluations):
            clean, away = _split(x, network(x.to(noised.dtype))[:, : x.shape[1]].float(), level, prediction_type)
            if step + 1 < len(evaluations):
                abar = evaluations[step + 1].level.alphas_cumprod
                x = abar**0.5 * clean.clamp(-1, 1) + (1 - abar) ** 0.5 * away
        return clean


def _split(x: Tensor, prediction: Tensor, level: NoiseLevel, prediction_type: str) -> tuple[Tensor, Tensor]:
    """(x0, eps), float32, with x = sqrt(abar) x0 + sqrt(1 - abar) eps."""
    signal, noise = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5
    if prediction_type == "epsilon":
        return (x - noise * prediction) / signal, prediction
    if prediction_type == "v_prediction":
        return signal * x - noise * prediction, signal * prediction + noise * x
    return prediction, (x - signal * prediction) / max(noise, 1e-12)
