"""What a sink is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpclean.data.records import Rows, Sample, Written


class Sink(Protocol):
    """Takes samples in index order and says when they are safe."""

    def put(self, sample: Sample, pixels: NDArray[np.uint8]) -> None:
        """Takes the sanitized pixels [H,W,C] of sample; may return before they are written. Raises SetupError."""
        ...

    def sync(self) -> list[Written]:
        """Waits until all that was put is on the disk; gives the files of single samples that were not before."""
        ...

    def finish(self) -> None:
        """Writes what can only come last. Does nothing new when it is done again after a crash."""
        ...

    def read_back(self) -> Iterator[Rows] | None:
        """What was written, once finished, in the order of its names, but for what cannot be read any more.

        None where the sums of whole files tell it.
        """
        ...
