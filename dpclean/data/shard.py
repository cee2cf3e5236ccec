"""One input shard: what its header promises, checked, and its rows in slices."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.data.names import is_text, to_bytes
from dpclean.data.records import DataOptions
from dpclean.data.safe_open import Unusable, open_regular
from dpclean.data.shard_header import BadShard, Header, Tensor, read_header
from dpclean.errors import Reason

IMAGES, LABELS, CLASS_NAMES = "images", "labels", "class_names"
LABEL_DTYPES = {
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}
LABEL_ROWS = 1 << 18  # read at a time
_CHANNELS = (1, 3)


@dataclass
class Shard:
    """A shard that can be used. Every read raises Unusable when the file is gone, cut off or another one."""

    root: Path
    name: str
    follow_links: bool
    identity: tuple[int, ...]  # device, inode, size, time of the last change
    header: Header
    layout: str  # nhwc or nchw
    class_names: tuple[str, ...] = ()
    largest_label: int = -1
    first: int = 0  # index of row 0 in the whole listing
    by_row: frozenset[str] = field(default_factory=frozenset)  # other tensors with a row for each image

    @property
    def images(self) -> Tensor:
        return self.header.tensors[IMAGES]

    @property
    def labels(self) -> Tensor | None:
        return self.header.tensors.get(LABELS)

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the tensors that are neither images nor labels."""
        return tuple(name for name in self.header.tensors if name not in (IMAGES, LABELS))

    @cached_property
    def rows(self) -> int:
        return self.images.shape[0]

    @cached_property
    def row_bytes(self) -> int:
        return self.images.size // self.rows

    def read_rows(self, start: int, count: int) -> NDArray[np.uint8]:
        """Rows start.. as uint8 [n,H,W,C], C-contiguous; n is less than count where the file ends early."""
        data = self.read(self.images.begin + start * self.row_bytes, count * self.row_bytes)
        whole = len(data) // self.row_bytes
        rows = data[: whole * self.row_bytes].reshape(whole, *self.images.shape[1:])
        return rows if self.layout == "nhwc" else np.ascontiguousarray(rows.transpose(0, 2, 3, 1))

    def in_layout(self, rows: NDArray[np.uint8]) -> memoryview:
        """Rows [n,H,W,C] as the bytes that this shard has for them."""
        return np.ascontiguousarray(rows if self.layout == "nhwc" else rows.transpose(0, 3, 1, 2)).data

    def label_slices(self) -> Iterator[NDArray[Any]]:
        """The labels in order, in slices, as the integers that they are; -1 where there are none."""
        for start in range(0, self.rows, LABEL_ROWS):
            count = min(LABEL_ROWS, self.rows - start)
            if self.labels is None:
                yield np.full(count, -1)
                continue
            dtype = LABEL_DTYPES[self.labels.dtype]
            data = self.read(self.labels.begin + start * dtype.itemsize, count * dtype.itemsize)
            if len(data) < count * dtype.itemsize:
                raise Unusable(Reason.TRUNCATED)
            yield data.view(dtype)

    def read(self, place: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the file as uint8 [n]; n is less than size where the file ends early."""
        with self._opened() as file:
            data = np.empty(size, np.uint8)
            file.seek(place)
            done = 0
            while done < size and (count := file.readinto(data[done:].data)):
                done += count
            return data[:done]

    @contextmanager
    def _opened(self) -> Iterator[FileIO]:
        descriptor = _open(self.root, self.name, self.follow_links)
        with FileIO(descriptor, "rb") as file:
            now = _identity(descriptor)
            if now != self.identity:
                cut_off = now[:2] == self.identity[:2] and now[2] < self.identity[2]
                raise Unusable(Reason.TRUNCATED if cut_off else Reason.VANISHED)
            try:
                yield file
            except OSError as error:
                raise Unusable(Reason.UNREADABLE) from error


def open_shard(root: Path, name: str, options: DataOptions) -> Shard:
    """The shard root/name after every check. Raises BadShard with what is wrong, Unusable."""
    descriptor = _open(root, name, options.follow_links)
    try:
        identity = _identity(descriptor)
        header = read_header(descriptor, identity[2])
    except OSError as error:
        raise Unusable(Reason.UNREADABLE) from error
    finally:
        os.close(descriptor)
    layout = _check_images(header, options)
    shard = Shard(root, name, options.follow_links, identity, header, layout, class_names(header))
    shard.by_row = frozenset(name for name in shard.others if _has_rows(header.tensors[name], shard.rows))
    _check_labels(shard)
    return shard


def _check_images(header: Header, options: DataOptions) -> str:
    """The layout of the tensor images."""
    if IMAGES not in header.tensors:
        raise BadShard("has no tensor 'images'; uint8 [N,H,W,C] or [N,C,H,W] is wanted")
    images = header.tensors[IMAGES]
    found = f"has a tensor 'images' of {images.dtype} {list(images.shape)}"
    if images.dtype != "U8" or len(images.shape) != 4:
        raise BadShard(f"{found}; uint8 [N,H,W,C] or [N,C,H,W] is wanted")
    if 0 in images.shape:
        raise BadShard(f"{found}, which is empty")
    fitting = [layout for layout, place in (("nhwc", 3), ("nchw", 1)) if images.shape[place] in _CHANNELS]
    if options.layout is not None:
        fitting = [layout for layout in fitting if layout == options.layout]
    if not fitting:
        raise BadShard(f"{found}; 1 or 3 channels are wanted, in front (nchw) or at the end (nhwc)")
    if len(fitting) > 1 and images.shape[1:] != (1, 1, 1):
        raise BadShard(f"{found}, which can be read in two ways; --layout says which is meant")
    channels = images.shape[3 if fitting[0] == "nhwc" else 1]
    if channels > options.channels:
        raise BadShard(f"{found}, of {channels} channels, and the denoiser takes grey images only")
    if images.size // images.shape[0] > options.max_pixels * channels:
        raise BadShard(f"{found}, images of more than {options.max_pixels} pixels")
    return fitting[0]


def _check_labels(shard: Shard) -> None:
    """Sets largest_label."""
    labels = shard.labels
    if labels is None:
        return
    found = f"has a tensor 'labels' of {labels.dtype} {list(labels.shape)}"
    if labels.dtype not in LABEL_DTYPES or labels.shape != (shard.rows,):
        raise BadShard(f"{found}; integers [{shard.rows}], one for each image, are wanted")
    for slice in shard.label_slices():
        if slice.min() < 0:
            raise BadShard(f"has the negative label {slice.min()}")
        shard.largest_label = max(shard.largest_label, int(slice.max()))
    if shard.largest_label >= 1 << 63:
        raise BadShard(f"has the label {shard.largest_label}, which does not fit 63 bits")


def class_names(header: Header) -> tuple[str, ...]:
    """Those in the metadata, none where they are not named. Raises BadShard."""
    text = header.metadata.get(CLASS_NAMES)
    if text is None:
        return ()
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadShard("has class_names that are no JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadShard("has class_names that are no list of different strings")
    if not all(map(is_text, names)):
        raise BadShard("has class_names that are no UTF-8")
    return tuple(names)


def _has_rows(tensor: Tensor, rows: int) -> bool:
    """Whether the tensor has whole bytes for each of so many rows."""
    return tensor.shape[:1] == (rows,) and tensor.size % rows == 0


def _open(root: Path, name: str, follow_links: bool) -> int:
    return open_regular(os.fsencode(root), to_bytes(name), follow_links)


def _identity(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
