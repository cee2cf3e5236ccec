"""The head `ridge`: a linear classifier on rows of length 1, in closed form, for many small sets of them.

One-against-all targets of +1 and -1, a constant 1 beside each row, and the squared length of the weights times
`penalty` added to the squared errors. The members of each class together weigh as much as those of any other, so that
a vote does not lean to the class that happens to have most of a few members. Nothing is measured on more than these.

The rows are exact multiples of 2^-12 (data/features.py), and so are the weights once they are found: with their length
below 1, every score is a sum of multiples of 2^-24 that float32 holds exactly. So a run's votes are the same bits alone
and with others beside it, in any order and on any processor, and runs can share one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.data.features import UNIT

NAME = "ridge"
LENGTH = 7 / 8  # of the longest weights: with what rounding adds to them and to the rows, a score stays below 1


@dataclass(frozen=True)
class Ridge:
    """The recipe: everything that changes the weights."""

    name: str = NAME
    penalty: float = 0.3  # compared with others, and with heads without balance, by benchmarks/ridge_lambda.py

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Head:
    """A classifier: a row x votes for the class of the largest x @ weights + bias, the lowest among equals.

    weights: float32 [D, classes], multiples of UNIT, no column longer than 1. bias: float32 [classes].
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def fit(recipe: Ridge, rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Head:
    """The head of members, rows [M, D] with M > 0 and labels [M]: a function of these in their order."""
    members, dimensions = rows.shape
    x = rows.astype(np.float64)
    y = np.full((members, classes), -1.0)
    y[np.arange(members), labels] = 1.0
    weigh = members / (classes * np.bincount(labels, minlength=classes)[labels])  # how much the error of each counts
    if members <= dimensions:  # the dual form: as many unknowns as members
        dual = np.linalg.solve(x @ x.T + 1.0 + np.diag(recipe.penalty / weigh), y)
        weights, bias = x.T @ dual, dual.sum(axis=0)
    else:
        x = np.concatenate([x, np.ones((members, 1))], axis=1)
        weighed = x.T * weigh
        both = np.linalg.solve(weighed @ x + recipe.penalty * np.eye(dimensions + 1), weighed @ y)
        weights, bias = both[:-1], both[-1]
    longest = np.sqrt(np.square(weights).sum(axis=0)).max()
    scale = LENGTH / longest if longest > 0 else 1.0  # the same for all classes: the largest score stays the largest
    return Head((np.rint(weights * (scale / UNIT)) * UNIT).astype(np.float32), (bias * scale).astype(np.float32))


def rankings(heads: Sequence[Head], rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The classes by what each head says of each row, from best to worst: uint16 [heads, P, classes]."""
    scores = [rows @ head.weights + head.bias for head in heads]
    return np.stack([np.argsort(-score, axis=1, kind="stable").astype(np.uint16) for score in scores])


def votes(heads: Sequence[Head], rows: NDArray[np.float32]) -> NDArray[np.int32]:
    """What each of some heads says of each row [P, D]: int32 [heads, P]."""
    classes = len(heads[0].bias)
    scores = np.concatenate([head.weights.T for head in heads]) @ rows.T  # exact, whatever is beside it
    return np.stack([_largest(scores[place * classes :], head.bias) for place, head in enumerate(heads)])


def _largest(scores: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.int32]:
    """The class of the largest score + bias at each point, the lowest among equals; scores [classes or more, P]."""
    best = scores[0] + bias[0]
    found = np.zeros(len(best), np.int32)
    for place in range(1, len(bias)):
        here = scores[place] + bias[place]
        np.copyto(found, np.int32(place), where=here > best)
        np.maximum(best, here, out=best)
    return found
