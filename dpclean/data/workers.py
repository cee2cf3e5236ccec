"""The pool of worker processes: decoding in order with read-ahead, encoding behind a bounded backlog.

Decoders see hostile bytes and encoders never do: they are different processes. Chunks of images keep
the cost of an image low; since every answer comes by itself, a decoder that dies or hangs costs the
one image it was busy with.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dpclean.data.crew import Crew, Slot
from dpclean.data.process import WorkerDied, WorkerLate, WorkerProcess
from dpclean.data.protocol import DECODE, FORMATS, LEFT_BEHIND, READ, REASONS, REQUEST, RESULT
from dpclean.data.records import Entry, ReadOptions, Sample
from dpclean.data.writer import Writer
from dpclean.errors import Reason

FIRST_CHUNK, LARGEST_CHUNK = 8, 64  # images a request
CHUNK_BYTES = 4 << 20  # pixels a request, as far as they can be foreseen
READ_AHEAD_BYTES = 128 << 20  # decoded and not yet asked for
_SMALL_BYTES = 1 << 16  # an image that needs no leave to be read ahead


class WorkerPool:
    """Up to count decoders and count encoders, started when first needed. A context manager."""

    def __init__(self, count: int, options: ReadOptions) -> None:
        self.count = count
        self.options = options
        self._decoders = Crew(count, options)
        self._encoders = Crew(count, options)
        self._streams: set[_Stream] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers at once; what was not waited for is lost."""
        for stream in self._streams:
            stream.close()
        self._decoders.close()
        self._encoders.close()

    def decoder_pids(self) -> list[int]:
        """The decoders that were started."""
        return self._decoders.pids()

    def decode(self, root: Path, entries: Iterable[Entry]) -> Iterator[Sample]:
        """The samples of entries below root, in the same order. Raises SetupError when no worker starts."""
        stream = _Stream(root, self.options)
        self._streams.add(stream)
        try:
            yield from self._decode(stream, iter(entries))
        finally:
            stream.close()
            self._streams.discard(stream)

    def writer(self, root: Path, replace: bool) -> Writer:
        """A writer of images below root; with replace, in the place of what an interrupted process left."""
        return Writer(root, replace, self._encoders)

    def _decode(self, stream: _Stream, entries: Iterator[Entry]) -> Iterator[Sample]:
        waiting: deque[Entry] = deque()
        asked = 0
        while True:
            chunk = stream.chunk()
            while len(waiting) <= 2 * self.count * chunk and (ahead := list(itertools.islice(entries, chunk))):
                waiting.extend(ahead)
                if names := [entry.name for entry in ahead if entry.reason is None]:
                    self._decoders.submit(_Decoding(stream, asked, names))
                    asked += len(names)
            if not waiting:
                return
            entry = waiting.popleft()
            if entry.reason is None:
                yield Sample(entry, *stream.take())
            else:
                yield Sample(entry, None, None, "", entry.reason, False)


class _Result(NamedTuple):
    """The part of a Sample that the worker knows."""

    pixels: NDArray[np.uint8] | None = None
    alpha: NDArray[np.uint8] | None = None
    format: str = ""
    reason: Reason | None = None
    left_behind: bool = False


class _Stream:
    """Results of one decode call, put back in order; what is read ahead is bounded in bytes."""

    def __init__(self, root: Path, options: ReadOptions) -> None:
        self.root = root
        self.options = options
        self._changed = threading.Condition()
        self._results: dict[int, tuple[_Result, int]] = {}
        self._wanted = 0  # place of the next result to be taken
        self._held = 0
        self._mean = CHUNK_BYTES / FIRST_CHUNK
        self._closed = False
        self._error: Exception | None = None

    def chunk(self) -> int:
        """How many images of the size seen lately make a request."""
        return max(1, min(LARGEST_CHUNK, int(CHUNK_BYTES / self._mean)))

    def admit(self, place: int, size: int) -> None:
        """Waits until size bytes may be read ahead; the next result to be taken always may."""
        with self._changed:
            while not (self._closed or place == self._wanted or self._held + size <= READ_AHEAD_BYTES):
                self._changed.wait()
            self._held += size

    def put(self, place: int, results: list[tuple[_Result, int]]) -> None:
        """Adds results for place and the places after it, each with the bytes that were admitted for it."""
        with self._changed:
            if self._closed:
                return
            self._results.update(enumerate(results, place))
            if self._wanted in self._results:
                self._changed.notify_all()

    def take(self) -> _Result:
        """The next result in order."""
        with self._changed:
            while self._wanted not in self._results:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise RuntimeError("the worker pool was closed")
                self._changed.wait()
            result, size = self._results.pop(self._wanted)
            self._wanted += 1
            if size:
                self._held -= size
                self._changed.notify_all()
        self._mean += 0.1 * ((1024 if result.pixels is None else result.pixels.size) - self._mean)
        return result

    def fail(self, error: Exception) -> None:
        """Lets take raise error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Drops what is there and what will still come."""
        with self._changed:
            self._closed = True
            self._results.clear()
            self._changed.notify_all()


class _Decoding:
    """A chunk of a stream: names of files, answered one by one."""

    def __init__(self, stream: _Stream, place: int, names: list[str]) -> None:
        self._stream = stream
        self._place = place
        self._names = names
        self._done: list[tuple[_Result, int]] = []  # answers not yet handed to the stream

    def run(self, slot: Slot) -> None:
        """Every name gets its answer; a decoder that dies has a second try, one that is late has none."""
        second_try: int | None = None
        while self._names and not slot.closed:
            try:
                self._run_on(slot.worker())
                return
            except WorkerLate:
                slot.discard()
                self._answer(_Result(reason=Reason.TIMEOUT))
            except WorkerDied:
                slot.discard()
                if second_try == len(self._names):
                    self._answer(_Result(reason=Reason.DECODER_DIED))
                else:
                    second_try = len(self._names)
            self._hand_over()

    def fail(self, error: Exception) -> None:
        """The stream passes it on."""
        self._stream.fail(error)

    def _run_on(self, worker: WorkerProcess) -> None:
        seconds = self._stream.options.decode_timeout
        request = json.dumps({"root": os.fspath(self._stream.root), "names": self._names}).encode()
        worker.send(REQUEST.pack(DECODE, len(request)) + request, time.monotonic() + seconds)
        while self._names:
            result, size = self._receive(worker, time.monotonic() + seconds)
            self._answer(result, size)
            if size or worker.buffered < RESULT.size:
                self._hand_over()

    def _receive(self, worker: WorkerProcess, deadline: float) -> tuple[_Result, int]:
        outcome, format, channels, has_alpha, height, width = RESULT.unpack(worker.read(RESULT.size, deadline))
        if outcome != READ:
            if outcome == LEFT_BEHIND:
                return _Result(left_behind=True), 0
            if outcome > len(REASONS):
                raise WorkerDied
            return _Result(reason=REASONS[outcome - 1]), 0
        plausible = format < len(FORMATS) and channels in (1, 3) and has_alpha in (0, 1)
        if not plausible or not 0 < height * width <= self._stream.options.max_pixels:
            raise WorkerDied
        size = height * width * (channels + has_alpha)
        if size < _SMALL_BYTES:
            size = 0
        else:
            self._hand_over()
            self._stream.admit(self._place, size)
            deadline = time.monotonic() + self._stream.options.decode_timeout
        pixels, alpha = np.empty((height, width, channels), np.uint8), None
        worker.read_into(pixels.data.cast("B"), deadline)
        if has_alpha:
            alpha = np.empty((height, width), np.uint8)
            worker.read_into(alpha.data.cast("B"), deadline)
        return _Result(pixels, alpha, FORMATS[format]), size

    def _answer(self, result: _Result, size: int = 0) -> None:
        self._names.pop(0)
        self._done.append((result, size))

    def _hand_over(self) -> None:
        self._stream.put(self._place, self._done)
        self._place += len(self._done)
        self._done = []
