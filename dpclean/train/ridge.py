"""The head `ridge`: a linear classifier on rows of length 1, in closed form, for many small sets of them.

One-against-all targets of +1 and -1, a constant 1 beside each row, and the squared length of the weights times
`penalty` added to the squared errors. The members of each class together weigh as much as those of any other, so that
a vote does not lean to the class that happens to have most of a few members. Nothing is measured on more than these.

The rows are exact multiples of 2^-12 (data/features.py), and so are the weights once they are found: with their length
below 1, every score is a sum of multiples of 2^-24 that float32 holds exactly. So a run's votes are the same bits alone
and with others beside it, in any order and on any processor, and runs can share one matrix product.

Of a few members the weights are a sum of their rows, so the products of points and members tell nearly all votes too,
in far fewer steps. They are asked first; where two classes are nearer to each other than everything that rounding can
have moved, the exact scores decide. So the votes are those of the weights, every one, whichever way they were found.
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
HALF_ULP = 2.0**-24  # of a float32 near 1
PRODUCT = 1.1  # more than two rows can have: 65,536 roundings to multiples of UNIT make a row longer by 1/32 at most


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


@dataclass(frozen=True)
class Dual:
    """What a head says of a point, by the products of the point and its members.

    factors: float32 [M, classes]; products @ factors + bias is x @ weights + bias, but for rounding. apart: more than
    rounding can change the difference of two classes' scores by, at any row.
    """

    factors: NDArray[np.float32]
    apart: float


def fit(recipe: Ridge, rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Head:
    """The head of members, rows [M, D] with M > 0 and labels [M]: a function of these in their order."""
    return fit_both(recipe, rows, labels, classes)[0]


def fit_both(
    recipe: Ridge, rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> tuple[Head, Dual | None]:
    """The head, and what it is by its members; None where these are more than the dimensions."""
    members, dimensions = rows.shape
    x = rows.astype(np.float64)
    y = np.full((members, classes), -1.0)
    y[np.arange(members), labels] = 1.0
    weigh = members / (classes * np.bincount(labels, minlength=classes)[labels])  # how much the error of each counts
    dual = None
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
    weights *= scale / UNIT
    rounded = np.rint(weights)
    head = Head((rounded * UNIT).astype(np.float32), (bias * scale).astype(np.float32))
    return head, None if dual is None else _by_members(dual * scale, (weights - rounded) * UNIT, head.bias)


def _by_members(dual: NDArray[np.float64], moved: NDArray[np.float64], bias: NDArray[np.float32]) -> Dual:
    """The dual form with how far it may be from the head. moved: by what rounding moved the weights, [D, classes].

    The difference of two classes' scores at a row is off by the row's product with the difference of what moved them,
    so by that one's length times a row's at most; and by half a unit of what float32 holds for each addend of the
    products, of the scores (none of more than the largest sum of factors) and of what is added and compared then.
    """
    across = moved.T @ moved
    lengths = across.diagonal()
    length = np.sqrt(max(0.0, float((lengths[:, None] + lengths - 2 * across).max())))
    largest = float(np.abs(dual).sum(axis=0).max())
    addends = (len(moved) + len(dual) + 2) * PRODUCT * largest + 8 * (2 + float(np.abs(bias).max()))
    with np.errstate(over="ignore"):  # then they are not read
        factors = dual.astype(np.float32)
    return Dual(factors, np.sqrt(PRODUCT) * length + 2 * HALF_ULP * addends)


def rankings(heads: Sequence[Head], rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The classes by what each head says of each row, from best to worst: uint16 [heads, P, classes]."""
    scores = [rows @ head.weights + head.bias for head in heads]
    return np.stack([np.argsort(-score, axis=1, kind="stable").astype(np.uint16) for score in scores])


def votes(heads: Sequence[Head], rows: NDArray[np.float32]) -> NDArray[np.int32]:
    """What each of some heads says of each row [P, D]: int32 [heads, P]."""
    classes = len(heads[0].bias)
    scores = np.concatenate([head.weights.T for head in heads]) @ rows.T  # exact, whatever is beside it
    return np.stack([_largest(scores[place * classes :], head.bias) for place, head in enumerate(heads)])


def votes_by_products(
    head: Head, dual: Dual, products: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.int32]:
    """votes([head], rows)[0], every one: int32 [P]. products: of the members and the rows [P, D], float32 [M, P]."""
    if not dual.apart < 1:  # nothing is told then, and a number may be too large
        by_weights: NDArray[np.int32] = votes([head], rows)[0]
        return by_weights
    scores = dual.factors.T @ products
    scores += head.bias[:, None]
    near = scores >= scores.max(axis=0) - np.float32(dual.apart)
    numbers = np.arange(len(scores), dtype=np.min_scalar_type(len(scores) - 1))
    found: NDArray[np.int32] = (near * numbers[:, None]).sum(axis=0, dtype=np.int32)  # the class, where there is one
    (open_,) = np.nonzero(near.sum(axis=0, dtype=np.uint16) != 1)
    found[open_] = (rows[open_] @ head.weights + head.bias).argmax(axis=1)
    return found


def _largest(scores: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.int32]:
    """The class of the largest score + bias at each point, the lowest among equals; scores [classes or more, P]."""
    best = scores[0] + bias[0]
    found = np.zeros(len(best), np.int32)
    for place in range(1, len(bias)):
        here = scores[place] + bias[place]
        np.copyto(found, np.int32(place), where=here > best)
        np.maximum(best, here, out=best)
    return found
