"""What a run is to the job: something that casts one vote on every point, whatever it does for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.elections import NO_RANKING
from dpclean.certificate.votes import ABSTAIN, first_of

# the votes of a run, int32 [points], or where votes are ranked the rankings, uint16 [points, classes]
Ballot: TypeAlias = NDArray[np.int32] | NDArray[np.uint16]
# with the model that cast it, as a file; None where none is kept
Result: TypeAlias = tuple[Ballot, bytes | None]


class Runs(Protocol):
    """The runs of a job in one process, in any order: each depends on its number, key, data and settings alone."""

    at_once: int  # how many are best asked for together; runs that can fail come one by one

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """Those of runs 1, 2, ..., in the order asked for. Raises Diverged or RunFailed where there are none."""


def ballot_of(scores: NDArray[np.floating[Any]], *, ranked: bool) -> Ballot:
    """A ballot by scores [points, classes]: the classes of each point from best to worst, of equal ones the lowest
    first. A point with a score that is not finite has none.
    """
    found = np.argsort(-scores, axis=1, kind="stable").astype(np.uint16)
    found[~np.isfinite(scores).all(axis=1)] = NO_RANKING
    return found if ranked else first_of(found)


def for_nobody(points: int, ranked: int) -> Ballot:
    """The ballot of a run that has no vote; ranked: classes, where votes are, else 0."""
    return np.full((points, ranked), NO_RANKING, np.uint16) if ranked else np.full(points, ABSTAIN, np.int32)
