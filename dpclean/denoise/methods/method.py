"""What a method is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

from dpclean.denoise.schedule import NoiseLevel, Schedule

if TYPE_CHECKING:
    from torch import Tensor


# a step's number, from 0 -> standard normal float32 [B, C, H, W]: by the noise key each image's own, equal where its
# tiles overlap, and in all channels where it is grey
Noise = Callable[[int], "Tensor"]


class Evaluation(NamedTuple):
    """A noise level, and the network made for it: [B, C, H, W] of its own type -> prediction [B, C or more, H, W].

    On a GPU the prediction lies in memory that the next call of any of a method's networks overwrites.
    """

    level: NoiseLevel
    network: Callable[[Tensor], Tensor]


class Method(Protocol):
    """A way from a noised batch to its clean images. A sample's result depends on that sample alone."""

    form: ClassVar[str]  # of its name, for help: "ddim:STEPS"

    @classmethod
    def of(cls, argument: str | None) -> Self:
        """The method of a name, by what stands after its colon. Raises UsageError."""

    @property
    def name(self) -> str: ...

    def levels(self, start: NoiseLevel, schedule: Schedule) -> Sequence[NoiseLevel]:
        """Where the network is evaluated: the images' own level first. Raises SetupError for a useless schedule."""

    def result_type(self, prediction_type: str) -> str:
        """What `denoise` gives, in the words of prediction types: "sample" is the clean images on [-1, 1]."""

    def denoise(self, noised: Tensor, evaluations: Sequence[Evaluation], schedule: Schedule, noise: Noise) -> Tensor:
        """[B, C, H, W] at the first evaluation's level -> of result_type, [B, C or more, H, W], nothing clamped.

        evaluations: one for each of `levels`, or the first of them, to find out what fits. noise: made when
        it is asked for, the one source of randomness.
        """
