"""What methods of several evaluations share: their frame, their timesteps, and what a prediction says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from dpclean.denoise import schedule as schedules
from dpclean.denoise.precision import at_least_float32
from dpclean.denoise.schedule import NoiseLevel, Schedule
from dpclean.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

MOST_STEPS = 100  # beyond it nothing is gained, and on a GPU each step keeps a captured graph


@dataclass(frozen=True)
class SeveralSteps:
    """The frame of such a method: KIND:STEPS evaluations, evenly spaced, and the last one's x0 is the result."""

    steps: int
    form: ClassVar[str]

    @classmethod
    def of(cls, argument: str | None) -> Self:
        canonical = argument is not None and argument.isascii() and argument.isdigit() and argument[0] != "0"
        if argument is None or not canonical or len(argument) > 3 or not 2 <= int(argument) <= MOST_STEPS:
            kind = cls.form.partition(":")[0]
            raise UsageError(
                f"method {kind} takes a number of steps from 2 to {MOST_STEPS}, as in {kind}:4,"
                f" got {argument or 'none'}",
                "one step is --method one-step",
            )
        return cls(int(argument))

    @property
    def name(self) -> str:
        return self.form.replace("STEPS", str(self.steps))

    def levels(self, start: NoiseLevel, schedule: Schedule) -> Sequence[NoiseLevel]:
        """At t*, t* (k-1)/k, ..., t*/k, from the images' own t* down; they may be fractional.

        As diffusers' "trailing" spacing has them from the schedule's end.
        """
        if start.timestep == 0:  # there is nothing below it
            return (start,)
        timesteps = (start.timestep * (self.steps - step) / self.steps for step in range(1, self.steps))
        return (start, *(schedules.at(schedule.alphas_cumprod, timestep) for timestep in timesteps))

    def result_type(self, prediction_type: str) -> str:
        return "sample"


def clean_and_noise(x: Tensor, prediction: Tensor, level: NoiseLevel, prediction_type: str) -> tuple[Tensor, Tensor]:
    """(x0, eps) with x = sqrt(abar) x0 + sqrt(1 - abar) eps, as a prediction [B, C or more, H, W] has it."""
    prediction = at_least_float32(prediction[:, : x.shape[1]])
    signal, noise = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5
    if prediction_type == "epsilon":
        return (x - noise * prediction) / signal, prediction
    if prediction_type == "v_prediction":
        return signal * x - noise * prediction, signal * prediction + noise * x
    return prediction, (x - signal * prediction) / max(noise, 1e-12)
