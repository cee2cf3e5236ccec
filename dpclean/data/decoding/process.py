"""One worker process as its parent sees it: requests out, answers in, each within a deadline."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import select
import subprocess
import time

from dpclean.data.decoding.protocol import HELLO, ROOM
from dpclean.data.records import DataOptions
from dpclean.errors import SetupError
from dpclean.jobs.child_process import start

START_SECONDS = 120.0
LEAST_ROOM = 64 << 20  # with less even small images fail
_RAISE_IT = "raise it, as with 'ulimit -v unlimited'; the same command goes on"
_READ_BYTES = 1 << 18


class WorkerDied(Exception):
    """The process ended, or said what no worker says."""


class WorkerLate(Exception):
    """No answer within the deadline."""


class WorkerProcess:
    """A started worker. Raises SetupError when it cannot start. Used by one thread at a time."""

    def __init__(self, options: DataOptions) -> None:
        try:
            self._process = start("dpclean.data.decoding.worker", _as_json(options), threads=1, quiet=True)
        except OSError as error:
            raise _cannot_start() from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._out, self._in = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._writable, self._readable = select.poll(), select.poll()
        self._writable.register(self._out, select.POLLOUT)
        self._readable.register(self._in, select.POLLIN)
        self._buffer = b""
        self._used = 0
        try:
            deadline = time.monotonic() + START_SECONDS
            started = self.read(len(HELLO), deadline) == HELLO
            (self.room,) = ROOM.unpack(self.read(ROOM.size, deadline))  # bytes that one image may take
        except (WorkerDied, WorkerLate):
            started = False
        if not started:
            self.kill()
            raise _cannot_start()
        if self.room < LEAST_ROOM:
            self.kill()
            raise SetupError(f"the limit on memory (ulimit -v) leaves {self.room >> 20} MiB for an image", _RAISE_IT)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def buffered(self) -> int:
        """Bytes that arrived and were not asked for yet."""
        return len(self._buffer) - self._used

    def send(self, data: bytes, deadline: float | None) -> None:
        """Writes a whole request. Raises WorkerDied, WorkerLate."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._out, view) :]
            except BlockingIOError:
                _wait(self._writable, deadline)
            except OSError as error:
                raise WorkerDied from error

    def read(self, count: int, deadline: float | None) -> bytes:
        """The next count bytes; count is small. Raises WorkerDied, WorkerLate."""
        while self.buffered < count:
            self._buffer = self._buffer[self._used :] + self._receive(deadline)
            self._used = 0
        self._used += count
        return self._buffer[self._used - count : self._used]

    def read_into(self, view: memoryview, deadline: float | None) -> None:
        """Fills view with the next bytes. Raises WorkerDied, WorkerLate."""
        first = min(len(view), self.buffered)
        view[:first] = self._buffer[self._used : self._used + first]
        self._used += first
        view = view[first:]
        while view:
            try:
                count = os.readv(self._in, [view])
            except BlockingIOError:
                _wait(self._readable, deadline)
                continue
            if not count:
                raise WorkerDied
            view = view[count:]

    def terminate(self) -> None:
        """Ends the process from another thread: whoever waits for it sees WorkerDied."""
        self._process.kill()

    def kill(self) -> None:
        """Ends the process at once and closes the pipes."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: nothing more can be done about it
            self._process.wait(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _receive(self, deadline: float | None) -> bytes:
        while True:
            try:
                data = os.read(self._in, _READ_BYTES)
            except BlockingIOError:
                _wait(self._readable, deadline)
                continue
            if not data:
                raise WorkerDied
            return data


def _wait(poll: select.poll, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(left):
        raise WorkerLate


def _as_json(options: DataOptions) -> str:
    return json.dumps(dataclasses.asdict(options))


def _cannot_start() -> SetupError:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        message = f"a decoding worker does not start within the limit on memory of {limit >> 20} MiB (ulimit -v)"
        return SetupError(message, _RAISE_IT)
    return SetupError("a decoding worker does not start", "see what `python -m dpclean.data.decoding.worker 0 {}` says")
