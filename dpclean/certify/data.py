"""What every run of a job reads, D and the test points, as a file that workers load, and the one digest over it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dpclean.certify.division import Division
from dpclean.errors import InputError
from dpclean.jobs.durable import write_durably

NOT_THOSE = "the images, labels or indices in memory are not those that the job was begun with"
REMEDY = "start again with --overwrite"
T = TypeVar("T")


class ImageSet(Protocol):
    """pixels: uint8 [H,W,C] each; labels, indices: int64 [N], places in the class list and in the listing."""

    @property
    def pixels(self) -> list[NDArray[np.uint8]]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def indices(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Data:
    """D and the test points as a worker holds them: pixels uint8 [H,W,C] each; labels and indices int64.

    division: of D, where each run takes a part of it.
    """

    train: list[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    points: list[NDArray[np.uint8]]
    point_indices: NDArray[np.int64]
    division: Division | None = None

    @classmethod
    def of(cls, train: ImageSet, points: ImageSet, division: Division | None = None) -> Data:
        """What a run reads of both; labels of points are read by nobody before all votes are in."""
        return cls(train.pixels, train.labels, train.indices, points.pixels, points.indices, division)


def inputs_digest(train: ImageSet, points: ImageSet, division: Division | None = None) -> str:
    """Hex SHA-256 over all that a run reads: pixels, shapes, labels and indices of D, and of the points but labels.

    In bytes: "dpclean-inputs-1"; for D, then for the points: the number of images (u64 LE), for each H, W, C (u32 LE)
    and the SHA-256 of its pixels; the labels of D and the indices of both (i64 LE); of a division its order and sizes.
    """
    return _digest(Data.of(train, points, division))


def _digest(data: Data) -> str:
    whole = hashlib.sha256(b"dpclean-inputs-1")
    for images in (data.train, data.points):
        whole.update(len(images).to_bytes(8, "little"))
        for image in images:
            pixels = hashlib.sha256(np.ascontiguousarray(image).data)
            whole.update(np.array(image.shape, "<u4").tobytes() + pixels.digest())
    division = () if data.division is None else (data.division.order, data.division.sizes)
    for numbers in (data.labels, data.indices, data.point_indices, *division):
        whole.update(np.ascontiguousarray(numbers, "<i8").tobytes())
    return whole.hexdigest()


def first_other(before: Iterable[NDArray[np.uint8]], now: Iterable[NDArray[np.uint8]]) -> int | None:
    """The place of the first image [H,W,C] that is another one, or is missing; None where all are the same."""
    pairs = enumerate(itertools.zip_longest(before, now))
    return next((place for place, (a, b) in pairs if a is None or b is None or not np.array_equal(a, b)), None)


def write_data(path: Path, data: Data) -> None:
    """Put D and the points where workers find them."""
    tensors: dict[str, NDArray[Any]] = {
        "train.pixels": _joined(data.train),
        "train.shapes": np.array([image.shape for image in data.train], np.int64),
        "train.labels": data.labels,
        "train.indices": data.indices,
        "points.pixels": _joined(data.points),
        "points.shapes": np.array([image.shape for image in data.points], np.int64),
        "points.indices": data.point_indices,
    }
    if data.division is not None:
        tensors |= {"division.order": data.division.order, "division.sizes": data.division.sizes}
    write_durably(path, save(tensors))


def read_data(path: Path, digest: str) -> Data:
    """What write_data wrote. Raises InputError as read_checked does."""
    return read_checked(path, digest, _from_tensors, _digest)


def read_checked(
    path: Path, digest: str, made: Callable[[Mapping[str, NDArray[Any]]], T], digest_of: Callable[[T], str]
) -> T:
    """What a file of tensors holds. Raises InputError where it is not, by its digest, what the job was begun with."""
    try:
        data = made(load_file(path))
        found = digest_of(data)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}", REMEDY) from error
    if found != digest:
        raise InputError(NOT_THOSE, REMEDY)
    return data


def _from_tensors(tensors: Mapping[str, NDArray[Any]]) -> Data:
    return Data(
        _split(tensors, "train"),
        tensors["train.labels"],
        tensors["train.indices"],
        _split(tensors, "points"),
        tensors["points.indices"],
        _division(tensors),
    )


def _division(tensors: Mapping[str, NDArray[Any]]) -> Division | None:
    if "division.order" not in tensors:
        return None
    return Division(tensors["division.order"], tensors["division.sizes"])


def _joined(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate([image.ravel() for image in images])


def _split(tensors: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[np.uint8]]:
    shapes, flat = tensors[f"{name}.shapes"], tensors[f"{name}.pixels"]
    ends = np.cumsum(shapes.prod(axis=1))
    return [flat[end - np.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]
