"""Several evaluations of the network: deterministic DDIM, Song et al. 2021 ("Denoising Diffusion Implicit Models").

Equation 12 with eta = 0: x at the next level is sqrt(abar') x0 + sqrt(1 - abar') eps, where x0 and eps are
those that the network predicts at this one. The last prediction of x0 is the result. Before it goes into the next x,
x0 is clamped to [-1, 1] and eps is not, as diffusers' DDIMScheduler does with clip_sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dpclean.denoise.methods.method import Evaluation, Noise
from dpclean.denoise.methods.several_steps import SeveralSteps, clean_and_noise
from dpclean.denoise.precision import at_least_float32
from dpclean.denoise.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Ddim(SeveralSteps):
    """Deterministic: it needs no randomness beside the noise in the images."""

    form: ClassVar[str] = "ddim:STEPS"

    def denoise(self, noised: Tensor, evaluations: Sequence[Evaluation], schedule: Schedule, noise: Noise) -> Tensor:
        x = at_least_float32(noised)
        for step, (level, network) in enumerate(evaluations):
            clean, away = clean_and_noise(x, network(x.to(noised.dtype)), level, schedule.prediction_type)
            if step + 1 < len(evaluations):
                abar = evaluations[step + 1].level.alphas_cumprod
                x = abar**0.5 * clean.clamp(-1, 1) + (1 - abar) ** 0.5 * away
        return clean
