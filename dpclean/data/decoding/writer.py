"""Images encoded and written by worker processes, behind a bounded backlog."""

from __future__ import annotations

import json
import os
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpclean.data.decoding.process import WorkerDied, WorkerProcess
from dpclean.data.decoding.protocol import ENCODE, REQUEST, WRITTEN
from dpclean.data.decoding.worker_threads import Slot, WorkerThreads
from dpclean.data.digest import identity_of
from dpclean.errors import InternalError, SetupError
from dpclean.jobs.durable import write_error

LARGEST_CHUNK = 64  # images a request
CHUNK_BYTES = 2 << 20
QUIET_SECONDS = 60.0  # without anything written, before that is said
BACKLOG_BYTES = 128 << 20  # given to be encoded and not yet written


class _Given(NamedTuple):
    """One image to write."""

    number: int  # from 0, in the order in which they were given
    target: str
    format: str
    shape: tuple[int, ...]  # H, W, C
    has_alpha: bool
    planes: bytes


class Writer:
    """Writes images below a root; everything given is written when wait returns. Used by one thread."""

    def __init__(self, root: Path, replace: bool, workers: WorkerThreads) -> None:
        self.root = root
        self.replace = replace
        self._workers = workers
        self._next: list[_Given] = []  # not handed over yet
        self._next_bytes = 0
        self._given = 0
        self._changed = threading.Condition()  # guards the rest
        self._awaited: dict[int, int] = {}  # bytes of what is given and not written, by number
        self._backlog = 0  # their sum
        self._digests: dict[int, bytes] = {}  # SHA-256 of the files that were written since the last wait, by number
        self._jobs = 0  # that may still write something
        self._error: Exception | None = None
        self._warned = False

    def put(self, target: str, format: str, pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> int:
        """Queues one image, copied, and gives its number; waits while the backlog is full.

        Raises what went wrong earlier.
        """
        planes = pixels.tobytes() + (b"" if alpha is None else alpha.tobytes())
        self._take_room(self._given, len(planes))
        self._next.append(_Given(self._given, target, format, pixels.shape, alpha is not None, planes))
        self._given += 1
        self._next_bytes += len(planes)
        if len(self._next) >= LARGEST_CHUNK or self._next_bytes >= CHUNK_BYTES:
            self._submit()
        return self._given - 1

    def wait(self) -> dict[int, bytes]:
        """Returns when everything given is written: the SHA-256 of each new file, by the number that put gave.

        Raises SetupError, and InternalError where nobody writes it.
        """
        self._submit()
        with self._changed:
            while self._awaited and self._error is None:
                self._wait()
            self._raise()
            digests, self._digests = self._digests, {}
            return digests

    def written(self, number: int, digest: bytes) -> None:
        """Takes an image off the backlog. Raises InternalError where it is not awaited."""
        with self._changed:
            size = self._awaited.pop(number, None)
            if size is None:
                raise InternalError(f"image {number} was written without being awaited", "please report it")
            self._backlog -= size
            self._digests[number] = digest
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Lets put and wait raise error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def end(self) -> None:
        """A job that was handed over will write no more."""
        with self._changed:
            self._jobs -= 1
            self._changed.notify_all()

    def _take_room(self, number: int, size: int) -> None:
        with self._changed:
            full = self._backlog + size > BACKLOG_BYTES
        if full:
            self._submit()
        with self._changed:
            while self._backlog and self._backlog + size > BACKLOG_BYTES and self._error is None:
                self._wait()
            self._raise()
            self._awaited[number] = size
            self._backlog += size

    def _submit(self) -> None:
        if self._next:
            job = _Encoding(self, tuple(self._next))
            self._next, self._next_bytes = [], 0
            with self._changed:
                self._jobs += 1
            self._workers.submit(job)

    def _wait(self) -> None:
        """Waits until something moves. An encoder has all the time it needs; that it needs much is said once."""
        if not self._jobs:
            message = f"{len(self._awaited)} images are not written, and no encoder is at work"
            raise InternalError(message, "please report it; the same command goes on")
        if not self._changed.wait(QUIET_SECONDS) and not self._warned:
            self._warned = True
            who = ", ".join(map(str, self._workers.pids()))
            warnings.warn(
                f"nothing was written below {self.root} for {QUIET_SECONDS:g} s: the disk or an encoder (process {who})"
                " does not answer",
                stacklevel=1,
            )

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Encoding:
    """A chunk of images for one encoder; once queued, its thread's own."""

    def __init__(self, writer: Writer, images: tuple[_Given, ...]) -> None:
        self._writer = writer
        self._images = images
        self._written = 0

    def run(self, slot: Slot) -> None:
        """Writes all images; an encoder that dies has a second try."""
        second_try: int | None = None
        while self._written < len(self._images) and not slot.closed:
            try:
                self._run_on(slot.worker(), self._writer.replace or second_try is not None)
                return
            except WorkerDied as error:
                slot.discard()
                if second_try == self._written and not slot.closed:
                    remedy = "give it more memory or fewer workers, then the same command again"
                    raise SetupError("an encoding worker died twice at the same image", remedy) from error
                second_try = self._written

    def fail(self, error: Exception) -> None:
        """The writer passes it on."""
        self._writer.fail(error)

    def end(self) -> None:
        """The writer waits for this job no more."""
        self._writer.end()

    def _run_on(self, worker: WorkerProcess, replace: bool) -> None:
        left = self._images[self._written :]
        images = [(image.number, image.target, image.format, *image.shape, image.has_alpha) for image in left]
        request = json.dumps({"root": os.fspath(self._writer.root), "replace": replace, "images": images}).encode()
        planes = (image.planes for image in left)
        worker.send(b"".join((REQUEST.pack(ENCODE, len(request)), request, *planes)), None)
        for image in left:
            number, identity, error, digest = WRITTEN.unpack(worker.read(WRITTEN.size, None))
            if number != image.number or identity != identity_of(image.number, image.target, image.planes):
                raise WorkerDied  # it answers something else
            if error:
                path = os.path.join(self._writer.root, image.target)
                raise write_error(path, OSError(error, os.strerror(error)))
            self._writer.written(image.number, digest)
            self._written += 1
