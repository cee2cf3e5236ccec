"""Shards out: rows appended as they come, labels, carried tensors and the header at the end.

The header has room reserved in front (safetensors allows spaces after its JSON), so a shard is
never held in memory and never moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpclean.data.names import to_bytes
from dpclean.data.records import Entry, Rows, Sample, Written
from dpclean.data.safe_open import Unusable
from dpclean.data.shard import CLASS_NAMES, IMAGES, LABEL_DTYPES, LABELS, Shard
from dpclean.data.shard_header import Tensor, write_header
from dpclean.errors import ConflictError, InputError
from dpclean.jobs.durable import sync_file_system, writing

_BUFFER_BYTES = 4 << 20


class Shards(Protocol):
    """What of a source of shards its sink mirrors."""

    def shards(self) -> tuple[Shard, ...]: ...

    def carried(self, shard: Shard) -> tuple[str, ...]:
        """Names of the tensors of a shard that are carried over."""
        ...

    def written(self, root: Path, names: Sequence[str]) -> Iterator[Rows]:
        """The rows that a sink wrote below root, by the names of its files, but for what cannot be read any more."""
        ...


class ShardSink:
    """One output shard for each input shard that keeps a row, with the same name, layout and dtypes."""

    def __init__(self, source: Shards, root: Path, kept: Iterable[Entry]) -> None:
        self._source = source
        self._root = root
        self._outputs = {shard.name: _Output(shard, source, root) for shard in source.shards()}
        self._current: _Output | None = None
        for entry in kept:
            self._outputs[entry.target].keep(entry)
        for output in self._outputs.values():
            output.resume()

    def put(self, sample: Sample, pixels: NDArray[np.uint8]) -> None:
        """Appends the row to its shard."""
        output = self._outputs[sample.entry.target]
        if output is not self._current:
            if self._current is not None:
                self._current.flush()
            self._current = output
        output.append(sample.entry, pixels)

    def sync(self) -> list[Written]:
        """Writes what is buffered, then flushes the file system. Rows are in no file of their own."""
        if self._current is not None:
            self._current.flush()
        sync_file_system(self._root)
        return []

    def finish(self) -> None:
        """Labels, carried tensors and headers; the same bytes when it is done again. Raises InputError, SetupError."""
        for output in self._outputs.values():
            output.finish()
        sync_file_system(self._root)

    def read_back(self) -> Iterator[Rows]:
        """All rows, by file name, then row."""
        names = sorted((name for name, output in self._outputs.items() if output.rows), key=to_bytes)
        return self._source.written(self._root, names)


class _Output:
    """One shard on its way out: header space, then rows of images, at the end labels and carried tensors."""

    def __init__(self, shard: Shard, source: Shards, root: Path) -> None:
        self._shard = shard
        self._root = root
        self._path = os.path.join(os.fsencode(root), to_bytes(shard.name))
        self._carried = source.carried(shard)
        self._metadata = {CLASS_NAMES: json.dumps(list(shard.class_names))} if shard.class_names else {}
        self._reserve = len(write_header(self._tensors(shard.rows, 0), self._metadata))  # fewer rows need no more
        self._kept = np.zeros(shard.rows, bool)
        self._labels = np.zeros(shard.rows, np.min_scalar_type(max(0, shard.largest_label)))
        self.rows = 0
        self._next = 0  # rows come in order, so that labels and carried tensors stay with their images
        self._buffer: list[NDArray[np.uint8]] = []  # rows [H,W,C]
        self._end = self._reserve  # of what is written

    def keep(self, entry: Entry) -> None:
        """Takes note of a row and its label."""
        row = entry.index - self._shard.first
        if row < self._next:
            raise ValueError(f"row {row} of {self._shard.name} comes after a later one")
        self._next = row + 1
        self._kept[row] = True
        self._labels[row] = max(0, entry.label)
        self.rows += 1

    def resume(self) -> None:
        """Cuts off what is newer than the rows that are kept. Raises ConflictError when some of these are missing."""
        self._end = self._reserve + self.rows * self._shard.row_bytes
        with writing(self._path):
            try:
                size = os.stat(self._path).st_size
            except FileNotFoundError:
                size = 0
            if size > self._end:
                os.truncate(self._path, self._end)
        if self.rows and size < self._end:
            message = f"{self._root} has lost rows of {self._shard.name!r} that were committed"
            raise ConflictError(message, "start again with --overwrite")

    def append(self, entry: Entry, pixels: NDArray[np.uint8]) -> None:
        """Adds one row [H,W,C], in the layout of the input."""
        self.keep(entry)
        self._buffer.append(pixels)
        if len(self._buffer) * self._shard.row_bytes >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands the rows to the operating system."""
        if self._buffer:
            rows = np.concatenate(self._buffer).reshape(-1, *self._buffer[0].shape)
            self._buffer.clear()
            self._end = self._write(self._end, [self._shard.in_layout(rows)])

    def finish(self) -> None:
        """Writes everything behind the rows, then the header in front."""
        if self.rows:
            self._write(self._reserve + self.rows * self._shard.row_bytes, self._blocks())
            self._write(0, [write_header(self._tensors(self.rows, self._reserve), self._metadata, self._reserve)])

    def _blocks(self) -> Iterator[bytes]:
        """What follows the rows."""
        if self._shard.labels is not None:
            yield self._labels[self._kept].astype(LABEL_DTYPES[self._shard.labels.dtype]).tobytes()
        for name in self._carried:
            yield from self._carry(self._shard.header.tensors[name])

    def _carry(self, tensor: Tensor) -> Iterator[bytes]:
        row_bytes = tensor.size // self._shard.rows
        step = max(1, _BUFFER_BYTES // max(1, row_bytes))
        for start in range(0, self._shard.rows, step):
            kept = self._kept[start : start + step]
            try:
                data = self._shard.read(tensor.begin + start * row_bytes, len(kept) * row_bytes)
            except Unusable as problem:
                message = f"{self._shard.name} changed before its other tensors were carried over"
                raise InputError(message, "put it back, or start again without --carry") from problem
            yield data.reshape(len(kept), row_bytes)[kept].tobytes()

    def _tensors(self, rows: int, begin: int) -> dict[str, Tensor]:
        """The output's tensors, one after the other from begin."""
        tensors = {}
        for name in (IMAGES, LABELS, *self._carried):
            if (tensor := self._shard.header.tensors.get(name)) is not None:
                size = tensor.size // self._shard.rows * rows
                tensors[name] = Tensor(tensor.dtype, (rows, *tensor.shape[1:]), begin, size)
                begin += size
        return tensors

    def _write(self, place: int, blocks: Iterable[bytes | memoryview]) -> int:
        """Writes blocks from place on; gives back the place after them."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(self._path), os.fdopen(os.open(self._path, flags, 0o666), "wb") as file:
            file.seek(place)
            file.writelines(blocks)
            return file.tell()
