"""Several random steps: ancestral sampling, Ho et al. 2020 ("Denoising Diffusion Probabilistic Models"), equation 7.

It is the Euler-Maruyama discretisation of the reverse variance-preserving SDE (Song et al. 2021, "Score-Based
Generative Modeling through Stochastic Differential Equations", appendix E), by which Nie et al. 2022 ("Diffusion Models
for Adversarial Purification") purify. Between levels abar > abar' of x and x', beta = 1 - abar / abar':

    x' = sqrt(abar') beta / (1 - abar) x0 + sqrt(1 - beta) (1 - abar') / (1 - abar) x + sqrt(variance) z

x0 is the network's, clamped to [-1, 1] as diffusers' DDPMScheduler does with clip_sample. The variance is what the
denoiser's schedule says: fixed_small is that of the posterior, beta (1 - abar') / (1 - abar), fixed_large is beta, and
with learned_range the network says where between their logarithms it lies (Nichol and Dhariwal 2021, equation 15). The
last prediction of x0 is the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dpclean.denoise.methods.method import Evaluation, Noise
from dpclean.denoise.methods.several_steps import SeveralSteps, clean_and_noise
from dpclean.denoise.precision import at_least_float32
from dpclean.denoise.schedule import NoiseLevel, Schedule
from dpclean.errors import SetupError

if TYPE_CHECKING:
    from torch import Tensor

VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")


class Sde(SeveralSteps):
    """Random: each step adds noise that is drawn, as the images' own, by the key."""

    form: ClassVar[str] = "sde:STEPS"

    def levels(self, start: NoiseLevel, schedule: Schedule) -> Sequence[NoiseLevel]:
        if schedule.variance_type not in VARIANCE_TYPES:
            raise SetupError(
                f"the denoiser's schedule has variance_type {schedule.variance_type!r}, and sde takes "
                + ", ".join(VARIANCE_TYPES),
                "give --method ddim:STEPS, which adds no noise",
            )
        return super().levels(start, schedule)

    def denoise(self, noised: Tensor, evaluations: Sequence[Evaluation], schedule: Schedule, noise: Noise) -> Tensor:
        x = at_least_float32(noised)
        for step, (level, network) in enumerate(evaluations):
            prediction = network(x.to(noised.dtype))
            clean, _ = clean_and_noise(x, prediction, level, schedule.prediction_type)
            if step + 1 < len(evaluations):
                abar, after = level.alphas_cumprod, evaluations[step + 1].level.alphas_cumprod
                beta = 1 - abar / after
                mean = after**0.5 * beta * clean.clamp(-1, 1) + (1 - beta) ** 0.5 * (1 - after) * x
                large, small = beta, beta * (1 - after) / (1 - abar)
                if schedule.variance_type == "learned_range":
                    between = (at_least_float32(prediction[:, x.shape[1] : 2 * x.shape[1]]) + 1) / 2
                    deviation = (between * (math.log(large) / 2) + (1 - between) * (math.log(small) / 2)).exp()
                    x = mean / (1 - abar) + deviation * noise(step)
                else:
                    variance = large if schedule.variance_type.startswith("fixed_large") else small
                    x = (mean / (1 - abar)).add_(noise(step), alpha=variance**0.5)
        return clean
