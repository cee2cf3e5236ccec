"""Images encoded and written by worker processes, behind a bounded backlog."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.data.crew import Crew, Slot
from dpclean.data.process import WorkerDied, WorkerProcess
from dpclean.data.protocol import ENCODE, REQUEST, WRITTEN
from dpclean.errors import DpcleanError, SetupError

LARGEST_CHUNK = 64  # images a request
CHUNK_BYTES = 2 << 20
BACKLOG_BYTES = 128 << 20  # given to be encoded and not yet written


class Writer:
    """Writes images below a root; everything given is written when wait returns. Used by one thread."""

    def __init__(self, root: Path, replace: bool, crew: Crew) -> None:
        self.root = root
        self.replace = replace
        self._crew = crew
        self._changed = threading.Condition()
        self._backlog = 0
        self._error: Exception | None = None
        self._next = _Encoding(self)

    def put(self, target: str, format: str, pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> None:
        """Queues one image, copied; waits while the backlog is full. Raises what went wrong earlier."""
        planes = pixels.tobytes() + (b"" if alpha is None else alpha.tobytes())
        self._take_room(len(planes))
        self._next.add((target, format, *pixels.shape, alpha is not None), planes)
        if self._next.full:
            self._submit()

    def wait(self) -> None:
        """Returns when everything given is written. Raises SetupError."""
        self._submit()
        with self._changed:
            while self._backlog and self._error is None:
                self._changed.wait()
            self._raise()

    def written(self, size: int) -> None:
        """Takes size bytes off the backlog."""
        with self._changed:
            self._backlog -= size
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Lets put and wait raise error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _take_room(self, size: int) -> None:
        if self._backlog + size > BACKLOG_BYTES:
            self._submit()
        with self._changed:
            while self._backlog and self._backlog + size > BACKLOG_BYTES and self._error is None:
                self._changed.wait()
            self._raise()
            self._backlog += size

    def _submit(self) -> None:
        if self._next.images:
            self._crew.submit(self._next)
            self._next = _Encoding(self)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Encoding:
    """A chunk of images for one encoder."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.images: list[tuple[Any, ...]] = []  # target, format, H, W, C, has alpha
        self._planes: list[bytes] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        return len(self.images) >= LARGEST_CHUNK or self._bytes >= CHUNK_BYTES

    def add(self, image: tuple[Any, ...], planes: bytes) -> None:
        """Adds one image: what the request says of it, and its bytes."""
        self.images.append(image)
        self._planes.append(planes)
        self._bytes += len(planes)

    def run(self, slot: Slot) -> None:
        """Writes all images; an encoder that dies has a second try."""
        second_try: int | None = None
        while self.images and not slot.closed:
            try:
                self._run_on(slot.worker(), self._writer.replace or second_try is not None)
                return
            except WorkerDied as error:
                slot.discard()
                if second_try == len(self.images) and not slot.closed:
                    remedy = "give it more memory or fewer workers, then the same command again"
                    raise SetupError("an encoding worker died twice at the same image", remedy) from error
                second_try = len(self.images)

    def fail(self, error: Exception) -> None:
        """The writer passes it on."""
        self._writer.fail(error)

    def _run_on(self, worker: WorkerProcess, replace: bool) -> None:
        root = os.fspath(self._writer.root)
        request = json.dumps({"root": root, "replace": replace, "images": self.images}).encode()
        worker.send(b"".join((REQUEST.pack(ENCODE, len(request)), request, *self._planes)), None)
        while self.images:
            (error,) = WRITTEN.unpack(worker.read(WRITTEN.size, None))
            if error:
                raise write_error(self._writer.root, OSError(error, os.strerror(error)))
            self._writer.written(len(self._planes[0]))
            del self.images[0], self._planes[0]


def write_error(root: Path, error: OSError) -> DpcleanError:
    """The refusal that an error while writing below root becomes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(f"no space is left for {root}", "free some, then give the same command again")
    what = os.strerror(error.errno).lower() if error.errno else str(error)
    return SetupError(f"{root} cannot be written: {what}", "mend that, then give the same command again")
