"""Processes that this one starts: they live no longer than it, and leave signals to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_INSTALLED = _PACKAGE_PARENT in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def start(module: str, *arguments: str, threads: int, quiet: bool = False) -> subprocess.Popen[bytes]:
    """A module of dpclean as a process, to speak with over unbuffered pipes; it calls die_with its first argument.

    That argument, this process's number, is put before the others. threads: with how many it computes. quiet: what it
    writes to standard error is not heard. Raises OSError where it cannot start.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid()), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        env=_environment(threads),
        bufsize=0,
        process_group=0,  # Ctrl-C in a terminal is for the parent alone
    )


def _environment(threads: int) -> dict[str, str]:
    """The parent's, with the number of threads, and the place of this package where it is not installed."""
    environment = (
        {"OMP_WAIT_POLICY": "passive"} | os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    )
    if not _INSTALLED:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_PACKAGE_PARENT, os.environ.get("PYTHONPATH"))))
    return environment


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
