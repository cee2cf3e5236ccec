"""What a run is to the job: something that casts one vote on every point, whatever it does for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

# the votes of a run, int32 [points], and the model that cast them, as a file; None where none is kept
Result: TypeAlias = tuple[NDArray[np.int32], bytes | None]


class Runs(Protocol):
    """The runs of a job in one process, in any order: each depends on its number, key, data and settings alone."""

    at_once: int  # how many are best asked for together; runs that can fail come one by one

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """Those of runs 1, 2, ..., in the order asked for. Raises Diverged or RunFailed where there are none."""
