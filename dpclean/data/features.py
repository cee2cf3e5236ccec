"""Rows of numbers instead of images: an embedding of anything, with labels, in one safetensors file.

Every row is brought to length 1 and rounded to multiples of 2^-12. Then sums of products of two rows, or of a row and
weights that are rounded alike, are exact in float32 in whatever order they are added: no row's result can depend, in
its last bit, on what else is computed beside it, on the library or on the processor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpclean.data.dataset import numbered
from dpclean.data.digest import PixelDigest, content_sha256
from dpclean.data.names import is_text
from dpclean.data.shard import LABEL_DTYPES, LABELS, class_names
from dpclean.data.shard_header import BadShard, Header, Tensor, read_header
from dpclean.errors import InputError, Reason
from dpclean.small_files import open_regular_file

FEATURES, NAMES, EXTRACTOR = "features", "names", "extractor"
KIND: Final = "features"
DTYPES = {name: np.dtype(f"<f{size}") for name, size in (("F16", 2), ("F32", 4), ("F64", 8))}
MOST_DIMENSIONS = 1 << 16  # the sums stay exact up to here
UNIT = 2.0**-12
BLOCK = 1 << 22  # values that are read at a time


@dataclass(frozen=True)
class Features:
    """The rows of a file that can be used, in its order.

    rows: float32 [N, D], multiples of UNIT, of length 1, or 0 where a row is all zeros. hashes: SHA-256 of each row as
    it was given.
    """

    names: list[str]
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]  # [N], index into classes, -1 none
    indices: NDArray[np.int64]  # [N], row of the file, from 0
    source_labels: NDArray[np.int64]  # [N], as the file has them: other than labels where it names no classes
    hashes: list[bytes]
    classes: tuple[str, ...]  # where the file names none: the integers that occur, in their order
    named: bool  # names are those of the file, not numbers of its rows
    made_by: str | None  # the digest of the extractor, where the file tells
    listed: int  # rows of the file
    quarantined: dict[str, int]  # rows left out, by reason

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dimensions(self) -> int:
        return int(self.rows.shape[1])

    def take(self, chosen: NDArray[np.bool_]) -> Features:
        """The rows where chosen, bool [N], is True; the rest stays as it is."""
        places = np.flatnonzero(chosen)
        return replace(
            self,
            names=[self.names[i] for i in places],
            rows=self.rows[places],
            labels=self.labels[places],
            indices=self.indices[places],
            source_labels=self.source_labels[places],
            hashes=[self.hashes[i] for i in places],
        )

    def digest(self) -> str:
        """The pixel digest (docs/formats.md) with rows for images of one pixel and D channels, hex."""
        digest = PixelDigest()
        columns = zip(self.indices.tolist(), self.names, self.source_labels.tolist(), self.hashes, strict=True)
        for index, name, label, sha256 in columns:
            digest.update(index, name, label, (1, 1, self.dimensions), sha256)
        return digest.hexdigest()


def read_features(path: Path) -> Features:
    """The file of a user. Raises InputError for everything that is wrong with it.

    A row with a value that is not finite is left out, whatever the other rows are.
    """
    with _opened(path) as (descriptor, header):
        features, classes = _checked(header), class_names(header)
        count = features.shape[0]
        names, source_labels = _names(header, count), _labels(header, descriptor, count, len(classes))
        rows, finite, hashes = np.empty(features.shape, np.float32), np.empty(count, np.bool_), list[bytes]()
        for place, values in _blocks(descriptor, features):
            block = slice(place, place + len(values))
            finite[block] = np.isfinite(values).all(axis=1)
            rows[block] = unit_rows(np.where(finite[block, None], values, 0))
            hashes += [content_sha256(row) for row in values]
    if not finite.any():
        raise InputError(f"no row of {str(path)!r} has finite values only", "look at how it was made")
    labels, classes = numbered(np.where(finite, source_labels, -1), classes)  # what is left out names no class
    found = Features(
        names=names or [str(row) for row in range(count)],
        rows=rows,
        labels=labels,
        indices=np.arange(count),
        source_labels=source_labels,
        hashes=hashes,
        classes=classes,
        named=names is not None,
        made_by=_made_by(header),
        listed=count,
        quarantined={} if finite.all() else {Reason.NOT_FINITE.value: int(count - finite.sum())},
    )
    return found if finite.all() else found.take(finite)


def holds_features(path: Path) -> bool:
    """Whether this is a file of rows, not images. Raises InputError for a file that is no safetensors file."""
    if path.is_dir():
        return False
    with _opened(path) as (_, header):
        return FEATURES in header.tensors


def unit_rows(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Finite values [N, D] as rows of length 1 in multiples of UNIT, float32; a row of zeros stays one."""
    rows = values.astype(np.float64)
    rows /= _or_one(np.abs(rows).max(axis=1, keepdims=True))  # so that no square overflows or vanishes
    rows /= _or_one(np.sqrt(np.square(rows).sum(axis=1, keepdims=True)))
    return (np.rint(rows / UNIT) * UNIT).astype(np.float32)


def _or_one(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(lengths > 0, lengths, 1.0)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, Header]]:
    """The file and its header; what is wrong inside becomes an InputError that names it."""
    try:
        descriptor = open_regular_file(path)
        try:
            yield descriptor, read_header(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror or error}", "give a safetensors file with 'features'"
        ) from error
    except BadShard as problem:
        raise InputError(
            f"{str(path)!r} {problem}", "see 'Features' in docs/formats.md for what the file must hold"
        ) from problem


def _checked(header: Header) -> Tensor:
    """The tensor of the rows. Raises BadShard."""
    if FEATURES not in header.tensors:
        raise BadShard("has no tensor 'features'; float16, float32 or float64 [N, D] is wanted")
    tensor = header.tensors[FEATURES]
    found = f"has a tensor 'features' of {tensor.dtype} {list(tensor.shape)}"
    if tensor.dtype not in DTYPES or len(tensor.shape) != 2:
        raise BadShard(f"{found}; float16, float32 or float64 [N, D] is wanted")
    if 0 in tensor.shape:
        raise BadShard(f"{found}, which is empty")
    if tensor.shape[1] > MOST_DIMENSIONS:
        raise BadShard(f"{found}, rows of more than {MOST_DIMENSIONS} numbers")
    return tensor


def _names(header: Header, count: int) -> list[str] | None:
    text = header.metadata.get(NAMES)
    if text is None:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadShard("has names that are no JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and is_text(name) for name in names):
        raise BadShard("has names that are no list of UTF-8 strings")
    if len(names) != count:
        raise BadShard(f"has {len(names)} names for {count} rows")
    return names


def _made_by(header: Header) -> str | None:
    """What `dpclean features` says in its files; others may say anything there, or nothing."""
    try:
        told = json.loads(header.metadata.get(EXTRACTOR, "null"))
    except (ValueError, RecursionError):
        return None
    digest = told.get("digest") if isinstance(told, dict) else None
    return digest if isinstance(digest, str) else None


def _labels(header: Header, descriptor: int, count: int, classes: int) -> NDArray[np.int64]:
    """int64 [N]; -1 where there is none. classes: how many are named, 0 where they are not."""
    tensor = header.tensors.get(LABELS)
    if tensor is None:
        return np.full(count, -1, np.int64)
    if tensor.dtype not in LABEL_DTYPES or tensor.shape != (count,):
        raise BadShard(
            f"has a tensor 'labels' of {tensor.dtype} {list(tensor.shape)}; integers [{count}], one for each row, are"
            " wanted"
        )
    labels = np.frombuffer(_read(descriptor, tensor.begin, tensor.size), LABEL_DTYPES[tensor.dtype])
    outside = (labels >= (classes or 1 << 63)) | (labels.astype(np.int64) < -1)
    if outside.any():
        row = int(outside.argmax())
        among = f"the {classes} class_names" if classes else "from 0 to 2^63 - 1"
        raise BadShard(f"has the label {int(labels[row])} in row {row}, which is not {among}, and not -1 for none")
    return labels.astype(np.int64)


def _blocks(descriptor: int, tensor: Tensor) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """(first row, values [n, D]) through the whole tensor."""
    dtype, (count, width) = DTYPES[tensor.dtype], tensor.shape
    some, row_bytes = max(1, BLOCK // width), width * dtype.itemsize
    for place in range(0, count, some):
        rows = min(some, count - place)
        data = _read(descriptor, tensor.begin + place * row_bytes, rows * row_bytes)
        yield place, np.frombuffer(data, dtype).reshape(rows, width)


def _read(descriptor: int, place: int, size: int) -> bytearray:
    data, done = bytearray(size), 0
    while done < size:
        count = os.preadv(descriptor, [memoryview(data)[done:]], place + done)
        if not count:
            raise BadShard("became shorter while it was read")
        done += count
    return data
