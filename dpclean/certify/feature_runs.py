"""Runs on rows of features: each trains a head on its share of them, and many are done with one matrix product."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpclean.build import build
from dpclean.certificate.parameters import JobParameters, has_rankings, parts_of, share_of
from dpclean.certify.data import read_checked
from dpclean.certify.division import Division
from dpclean.certify.runs import Ballot, Result, for_nobody
from dpclean.data.features import Features
from dpclean.errors import InputError
from dpclean.jobs.durable import write_durably
from dpclean.noise.membership import members
from dpclean.train.ridge import Dual, Head, Ridge, fit_both, rankings, votes, votes_by_products

AT_ONCE = 32  # runs: a matrix product is fast with so many heads, and gains nothing from more
MOST_SCORES = 1 << 26  # of all points and classes, that are in memory together
NOT_KEPT = "do not rely on this certificate; ask its issuer for the original"
MOST_PRODUCTS = 1 << 27  # of all rows of D and points, in each worker's memory: 512 MB


@dataclass(frozen=True)
class FeatureData:
    """D and the test points as a worker holds them: rows float32 [N, D] as Features has them; int64 [N]."""

    train: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    points: NDArray[np.float32]
    order: NDArray[np.int64] | None = None  # of the division of D, and its sizes, where each run takes a part
    sizes: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, train: Features, points: Features, division: Division | None = None) -> FeatureData:
        """What a run reads of both; labels of points are read by nobody before all votes are in."""
        divided = () if division is None else (division.order, division.sizes)
        return cls(train.rows, train.labels, train.indices, points.rows, *divided)

    @property
    def division(self) -> Division | None:
        return None if self.order is None or self.sizes is None else Division(self.order, self.sizes)

    def digest(self) -> str:
        """Hex SHA-256 over all that a run reads.

        In bytes: "dpclean-inputs-2"; the shapes of the rows of D and of the points (u64 LE); both rows (f32 LE), the
        labels and the indices of D, and of a division its order and sizes (i64 LE).
        """
        whole = hashlib.sha256(b"dpclean-inputs-2")
        whole.update(np.array([*self.train.shape, *self.points.shape], "<u8").tobytes())
        for rows in (self.train, self.points):
            whole.update(np.ascontiguousarray(rows, "<f4").data)
        for numbers in (self.labels, self.indices, self.order, self.sizes):
            if numbers is not None:
                whole.update(np.ascontiguousarray(numbers, "<i8").data)
        return whole.hexdigest()

    def write(self, path: Path) -> None:
        """Put D and the points where workers find them."""
        tensors = {name: np.ascontiguousarray(rows) for name, rows in vars(self).items() if rows is not None}
        write_durably(path, save(tensors))


def read_data(path: Path, digest: str) -> FeatureData:
    """What FeatureData.write wrote. Raises InputError where it is not what the job was begun with."""
    return read_checked(path, digest, lambda tensors: FeatureData(**tensors), FeatureData.digest)


class _Fitted(NamedTuple):
    """What a run that took something has trained."""

    taken: NDArray[np.int64]
    head: Head
    dual: Dual | None


class FeatureRuns:
    """Runs that fit a head each. What a run gives depends on its own members, in their order, and on nothing else."""

    def __init__(self, parameters: JobParameters, key: bytes, data: FeatureData) -> None:
        assert (data.division is None) == (parts_of(parameters) is None), "a run on a part would be one on all rows"
        self.parameters = parameters
        self.recipe = recipe_of(parameters)
        self.classes = len(parameters.classes)
        self.share = share_of(parameters)
        self.ranked = self.classes if has_rankings(parameters) else 0
        self.keep_models = parameters.keep_models
        scores = self.classes * len(data.points)
        self.at_once = max(1, min(AT_ONCE, MOST_SCORES // scores))
        self.by_products = products_pay(parameters) and products_fit(parameters)
        self.key = key
        self.data = data
        self._places = np.full(int(data.indices.max()) + 1, -1)
        self._places[data.indices] = np.arange(len(data.indices))

    def results(self, numbers: Sequence[int]) -> Iterator[Result]:
        """Those of some runs, in their order. A run that takes nothing votes for nobody."""
        heads = {number: fitted for number in numbers if (fitted := self._fitted(number)) is not None}
        rows = iter(self._ballots(list(heads.values()))) if heads else iter(())
        for number in numbers:
            if number in heads:
                yield next(rows), dump(heads[number].head) if self.keep_models else None
            else:
                yield for_nobody(len(self.data.points), self.ranked), None

    def _ballots(self, fitted: Sequence[_Fitted]) -> Iterable[Ballot]:
        """What the heads of some runs say, in their order."""
        if self.by_products:
            return (self._by_products(each) for each in fitted)
        cast = rankings if self.ranked else votes
        return cast([each.head for each in fitted], self.data.points)

    def _by_products(self, fitted: _Fitted) -> NDArray[np.int32]:
        if fitted.dual is None:
            by_weights: NDArray[np.int32] = votes([fitted.head], self.data.points)[0]
            return by_weights
        return votes_by_products(fitted.head, fitted.dual, self._products[fitted.taken], self.data.points)

    @cached_property
    def _products(self) -> NDArray[np.float32]:
        """Of each row of D with each point. A head reads those of its members, to find the votes of its weights."""
        return self.data.train @ self.data.points.T

    def _fitted(self, number: int) -> _Fitted | None:
        taken = self._taken(number)
        if not len(taken):
            return None
        return _Fitted(taken, *fit_both(self.recipe, self.data.train[taken], self.data.labels[taken], self.classes))

    def _taken(self, number: int) -> NDArray[np.int64]:
        """The places in D of the rows that a run takes: a random share by index, a part in its order, or all."""
        if (division := self.data.division) is not None:
            return division.part(number - 1)
        if self.share is None:
            return np.arange(len(self.data.indices))
        places = self._places[members(self.key, number, self.share, len(self._places))]
        return places[places >= 0]


def products_pay(parameters: JobParameters) -> bool:
    """Whether runs are done sooner by products of the rows of D with the points, found once in each worker.

    That costs about as much as multiplying the points with as many heads' classes as there are rows; a run then costs
    as if rows had as many numbers as it has members, and what is done for each point beside that.
    """
    share, dimensions = share_of(parameters), parameters.dimensions
    if share is None or isinstance(dimensions, UnsetType) or parameters.sigma != "0":  # noise makes rows of its own
        return False
    rows = parameters.raw.images
    fewer = dimensions - 2 * rows * share / 2**32
    return parameters.runs * len(parameters.classes) * fewer > 4 * rows * dimensions


def products_fit(parameters: JobParameters) -> bool:
    """Whether these products are few enough for the memory of a worker."""
    return parameters.raw.images * parameters.points <= MOST_PRODUCTS


def recipe_of(parameters: JobParameters) -> Ridge:
    """The recipe of a head from its JSON form."""
    return msgspec.convert(parameters.recipe, Ridge)


def dump(head: Head) -> bytes:
    """A head as a safetensors file."""
    return save({"weights": head.weights, "bias": head.bias})


def load_head(model: bytes, dimensions: int, classes: int) -> Head:
    """What dump wrote. Raises InputError for what is no head of rows of so many numbers that tells so many classes."""
    try:
        tensors = load(model)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"a model that was kept cannot be read: {error}", NOT_KEPT) from error
    told = {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()}
    if told != {"weights": ("float32", (dimensions, classes)), "bias": ("float32", (classes,))}:
        raise InputError(
            f"a model that was kept is no head for rows of {dimensions} numbers and {classes} classes", NOT_KEPT
        )
    return Head(**tensors)


def engine() -> dict[str, Any]:
    """What runs must have in common to be identically distributed."""
    return {"device": "cpu", "threads": 1, "versions": {"dpclean": build(), "numpy": np.__version__}}
