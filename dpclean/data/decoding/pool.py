"""The pool of worker processes: decoding in order with read-ahead, encoding behind a bounded backlog.

Decoders see hostile bytes and encoders never do: they are different processes. Chunks of images keep
the cost of an image low; since every answer comes by itself, a decoder that dies or hangs costs the
one image it was busy with. What is handed to a thread is a tuple that nobody changes any more, and every
answer says what it answers.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dpclean.data.decoding.process import WorkerDied, WorkerLate, WorkerProcess
from dpclean.data.decoding.protocol import DECODE, DECODE_BYTES, FORMATS, LEFT_BEHIND, READ, REASONS, REQUEST, RESULT
from dpclean.data.decoding.worker_threads import Slot, WorkerThreads
from dpclean.data.decoding.writer import Writer
from dpclean.data.records import DataOptions, Entry, Sample
from dpclean.data.safe_open import identity_of_folder
from dpclean.errors import InternalError, Reason

FIRST_CHUNK, LARGEST_CHUNK = 8, 64  # images a request
CHUNK_BYTES = 4 << 20  # pixels a request, as far as they can be foreseen
READ_AHEAD_BYTES = 128 << 20  # decoded and not yet asked for
_SMALL_BYTES = 1 << 16  # an image that needs no leave to be read ahead


_File = tuple[Entry, bytes | None]  # with its data, where these lie in no file of their own


class WorkerPool:
    """Up to count decoders and count encoders, started when first needed. A context manager."""

    def __init__(self, count: int, options: DataOptions) -> None:
        self.count = count
        self.options = options
        self._decoders = WorkerThreads(count, options)
        self._encoders = WorkerThreads(count, options)
        self._stream: _Stream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers at once; what was not waited for is lost."""
        if self._stream is not None:
            self._stream.close()
        self._decoders.close()
        self._encoders.close()

    def decoder_pids(self) -> list[int]:
        """The decoders that were started."""
        return self._decoders.pids()

    def remarks(self) -> list[str]:
        """What a user should know about the decoders that were started, one sentence each."""
        room, asked = self._decoders.room(), self.options.decode_memory
        if room is None or room >= asked:
            return []
        return [f"the limit on memory (ulimit -v) leaves {room >> 20} of the {asked >> 20} MiB of --decode-memory"]

    def decode(self, root: Path, entries: Iterable[Entry], identity: tuple[int, int] | None = None) -> Iterator[Sample]:
        """The samples of entries below root, in the same order. Raises SetupError when no worker starts.

        identity: that of root when its entries were listed; of the folder that is there now, where it is not given.

        One call at a time: two would wait for each other's read-ahead.
        """
        place = _Place(root, identity or identity_of_folder(os.fsencode(root)))
        yield from self._samples(place, ((entry, None) for entry in entries))

    def decode_bytes(self, files: Iterable[tuple[Entry, bytes]]) -> Iterator[Sample]:
        """The samples of files that lie elsewhere, as their bytes, in the same order: members of an archive, say.

        The limits are those of decode, and so are the reasons; entry.name tells what the file claims to be. Of what is
        read ahead so much is held in memory. One call of either at a time. Raises SetupError when no worker starts.
        """
        return self._samples(None, files)

    def _samples(self, place: _Place | None, files: Iterable[_File]) -> Iterator[Sample]:
        if self._stream is not None:
            raise RuntimeError("the samples asked for before have not all been taken")
        self._stream = stream = _Stream(place, self.options)
        try:
            yield from self._decode(stream, iter(files))
        finally:
            stream.close()
            self._stream = None

    def writer(self, root: Path, replace: bool) -> Writer:
        """A writer of images below root; with replace, in the place of what an interrupted process left."""
        return Writer(root, replace, self._encoders)

    def _decode(self, stream: _Stream, files: Iterator[_File]) -> Iterator[Sample]:
        waiting: deque[Entry] = deque()
        sizes: deque[int] = deque()  # of the data of each that waits
        asked = held = 0
        while True:
            chunk = stream.chunk()
            while (
                len(waiting) <= 2 * self.count * chunk and held <= READ_AHEAD_BYTES and (ahead := _taken(files, chunk))
            ):
                waiting.extend(entry for entry, _ in ahead)
                sizes.extend(len(data or b"") for _, data in ahead)
                held += sum(len(data or b"") for _, data in ahead)
                if readable := tuple(file for file in ahead if file[0].reason is None):
                    job = _Decoding(stream, asked, readable)
                    asked += len(readable)
                    self._decoders.submit(job)
            if not waiting:
                return
            entry = waiting.popleft()
            held -= sizes.popleft()
            if entry.reason is None:
                yield Sample(entry, *stream.take())
            else:
                yield Sample.left_out(entry, entry.reason)


def _taken(files: Iterator[_File], most: int) -> tuple[_File, ...]:
    """The next files, so many and no more once their data make a chunk."""
    taken: list[_File] = []
    size = 0
    while len(taken) < most and size < CHUNK_BYTES and (file := next(files, None)) is not None:
        taken.append(file)
        size += len(file[1] or b"")
    return tuple(taken)


class _Result(NamedTuple):
    """The part of a Sample that the worker knows."""

    pixels: NDArray[np.uint8] | None = None
    alpha: NDArray[np.uint8] | None = None
    format: str = ""
    reason: Reason | None = None
    left_behind: bool = False
    identity: bytes = b""


class _Place(NamedTuple):
    """The folder in which the files to be decoded lie, and what tells it from another one there."""

    root: Path
    identity: tuple[int, int]


class _Stream:
    """Results of one decode call, put back in order; what is read ahead is bounded in bytes."""

    def __init__(self, place: _Place | None, options: DataOptions) -> None:
        self.place = place  # None: files come as their bytes
        self.options = options
        self._changed = threading.Condition()
        self._results: dict[int, tuple[_Result, int]] = {}
        self._jobs = 0  # that may still bring results
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

    def release(self, size: int) -> None:
        """Takes back what admit let in and did not come."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def begin(self) -> None:
        """A job will bring results."""
        with self._changed:
            self._jobs += 1

    def end(self) -> None:
        """A job that began will bring no more."""
        with self._changed:
            self._jobs -= 1
            self._changed.notify_all()

    def put(self, place: int, results: Sequence[tuple[_Result, int]]) -> None:
        """Adds results for place and the places after it, each with the bytes that were admitted for it."""
        with self._changed:
            if self._closed:
                return
            for number, result in enumerate(results, place):
                if number < self._wanted or number in self._results:
                    raise InternalError(f"image {number} was answered twice", "please report it")
                self._results[number] = result
            if self._wanted in self._results:
                self._changed.notify_all()

    def take(self) -> _Result:
        """The next result in order. Raises InternalError where nobody is left who could bring it."""
        with self._changed:
            while self._wanted not in self._results:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise RuntimeError("the worker pool was closed")
                if not self._jobs:
                    raise InternalError(
                        f"image {self._wanted} has no answer, and no decoder is at work",
                        "please report it; the same command goes on",
                    )
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
    """A chunk of a stream, answered one by one: entries for the places from first on. Once queued, its thread's own."""

    def __init__(self, stream: _Stream, first: int, files: tuple[_File, ...]) -> None:
        self._stream = stream
        self._first = first
        self._entries = tuple(entry for entry, _ in files)
        self._data = tuple(data for _, data in files)
        self._handed_over = 0  # answers that the stream has
        self._done: list[tuple[_Result, int]] = []  # the answers after these
        stream.begin()

    @property
    def _next(self) -> int:
        """The entry that is to be answered next."""
        return self._handed_over + len(self._done)

    def run(self, slot: Slot) -> None:
        """Every entry gets its answer; a decoder that dies has a second try, one that is late has none."""
        second_try: int | None = None
        while self._next < len(self._entries) and not slot.closed:
            try:
                self._run_on(slot.worker())
                return
            except WorkerLate:
                slot.discard()
                self._give_up(Reason.TIMEOUT)
            except WorkerDied:
                slot.discard()
                if second_try == self._next:
                    self._give_up(Reason.DECODER_DIED)
                else:
                    second_try = self._next
            self._hand_over()

    def fail(self, error: Exception) -> None:
        """The stream passes it on."""
        self._stream.fail(error)

    def end(self) -> None:
        """The stream waits for this job no more."""
        self._stream.end()

    def _run_on(self, worker: WorkerProcess) -> None:
        if self._stream.place is not None:
            self._ask_for_files(worker, self._stream.place)
        while self._next < len(self._entries):
            deadline = time.monotonic() + self._stream.options.decode_timeout
            if (data := self._data[self._next]) is not None:
                self._ask_for(worker, self._entries[self._next], data, deadline)
            result, size = self._receive(worker, deadline)
            self._done.append((result, size))
            if size or worker.buffered < RESULT.size:
                self._hand_over()

    def _ask_for_files(self, worker: WorkerProcess, place: _Place) -> None:
        left = enumerate(self._entries[self._next :], self._first + self._next)
        files = [(number, entry.index, entry.name) for number, entry in left]
        request = json.dumps({"root": os.fspath(place.root), "identity": place.identity, "files": files}).encode()
        deadline = time.monotonic() + self._stream.options.decode_timeout
        worker.send(REQUEST.pack(DECODE, len(request)) + request, deadline)

    def _ask_for(self, worker: WorkerProcess, entry: Entry, data: bytes, deadline: float) -> None:
        asked = {"number": self._first + self._next, "index": entry.index, "name": entry.name, "size": len(data)}
        request = json.dumps(asked).encode()
        worker.send(REQUEST.pack(DECODE_BYTES, len(request)) + request, deadline)
        worker.send(data, deadline)

    def _receive(self, worker: WorkerProcess, deadline: float) -> tuple[_Result, int]:
        place, identity, *answer = RESULT.unpack(worker.read(RESULT.size, deadline))
        if place != self._first + self._next or identity != self._entries[self._next].identity:
            raise WorkerDied  # it answers something else
        outcome, format, channels, has_alpha, height, width = answer
        if outcome != READ:
            if outcome == LEFT_BEHIND:
                return _Result(left_behind=True, identity=identity), 0
            if outcome > len(REASONS):
                raise WorkerDied
            return _Result(reason=REASONS[outcome - 1], identity=identity), 0
        plausible = format < len(FORMATS) and channels in (1, 3) and has_alpha in (0, 1)
        if not plausible or not 0 < height * width <= self._stream.options.max_pixels:
            raise WorkerDied
        size = height * width * (channels + has_alpha)
        if size < _SMALL_BYTES:
            size = 0
        else:
            self._hand_over()
            self._stream.admit(place, size)
            deadline = time.monotonic() + self._stream.options.decode_timeout
        pixels, alpha = np.empty((height, width, channels), np.uint8), None
        try:
            worker.read_into(pixels.data.cast("B"), deadline)
            if has_alpha:
                alpha = np.empty((height, width), np.uint8)
                worker.read_into(alpha.data.cast("B"), deadline)
        except BaseException:
            self._stream.release(size)
            raise
        return _Result(pixels, alpha, FORMATS[format], identity=identity), size

    def _give_up(self, reason: Reason) -> None:
        self._done.append((_Result(reason=reason, identity=self._entries[self._next].identity), 0))

    def _hand_over(self) -> None:
        done, self._done = tuple(self._done), []
        first, self._handed_over = self._first + self._handed_over, self._handed_over + len(done)
        self._stream.put(first, done)
