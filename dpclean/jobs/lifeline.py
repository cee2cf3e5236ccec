"""A process lives no longer than the one that started it, and leaves signals to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """The parent handles signals to the group; when it is gone, so is this process. No core dumps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


_GUARD = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()
os.killpg(0, signal.SIGKILL)
"""


@contextmanager
def mortal_group() -> Iterator[int]:
    """A process group to start other people's programs in (Popen's process_group), with all that they start.

    Whatever is in it is killed when the block is left, and when this process ends in any way at all: a guard leads
    the group and waits for its pipe to close. A program that makes a group of its own leaves it.
    """
    command = [sys.executable, "-I", "-S", "-c", _GUARD]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)
    assert guard.stdin is not None
    try:
        yield guard.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        guard.stdin.close()
        guard.wait()
