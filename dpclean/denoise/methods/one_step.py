"""One evaluation of the network: Carlini et al. 2022, Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from dpclean.denoise.methods.method import Evaluation, Noise
from dpclean.denoise.schedule import NoiseLevel, Schedule
from dpclean.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class OneStep:
    """The network's prediction itself."""

    form: ClassVar[str] = "one-step"
    name = form

    @classmethod
    def of(cls, argument: str | None) -> Self:
        if argument is not None:
            raise UsageError(
                f"method one-step takes no number, got {argument!r}", "give one-step, ddim:STEPS or sde:STEPS"
            )
        return cls()

    def levels(self, start: NoiseLevel, schedule: Schedule) -> Sequence[NoiseLevel]:
        return (start,)

    def result_type(self, prediction_type: str) -> str:
        return prediction_type

    def denoise(self, noised: Tensor, evaluations: Sequence[Evaluation], schedule: Schedule, noise: Noise) -> Tensor:
        return evaluations[0].network(noised)
