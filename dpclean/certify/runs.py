"""What a run is to the job: something that casts one vote on every point, whatever it does for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpclean.certify.data import Data


class Runs(Protocol):
    """The runs of a job in one process, in any order: each depends on its number, key, data and settings alone."""

    def prepare(self, data: Data) -> None:
        """Take what all runs read; once, before the first."""

    def cast(self, number: int) -> NDArray[np.int32]:
        """The votes of run 1, 2, ...: int32 [points]. Raises Diverged or RunFailed where there are none."""

    def model(self) -> bytes | None:
        """What the last run made that voted, as a file; None where none is kept."""
