"""How many threads compute, so that they do not fight for cores with what else the machine does.

OpenMP's threads meet after every layer. Where another program has taken the core of one of them, the others wait for
it, by default in a busy loop that takes cores from it in turn: many times the time that a single thread needs.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from dpclean.errors import UsageError

SAMPLES, SAMPLE_SECONDS = 3, 0.1
MOST = 1024


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says otherwise.

    OpenMP reads this once, when torch is imported, so a program says it first; a library cannot.
    """
    environment.setdefault("OMP_WAIT_POLICY", "passive")


def choose_threads(asked: int | None = None) -> int | None:
    """How many threads are to compute: those asked for, else fewer than torch's own number where cores are taken.

    None: torch's own number, also where OMP_NUM_THREADS says it. Looks at the machine for a moment; needs no torch.
    """
    if asked is not None or "OMP_NUM_THREADS" in os.environ:
        return asked
    idle = idle_cores()
    return None if idle >= len(os.sched_getaffinity(0)) else idle


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Inside, torch and dpclean's kernels compute with so many threads; None: as torch is set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def computing_as_begun(environment: Mapping[str, Any] | None, asked: int | None) -> AbstractContextManager[None]:
    """As many threads as those asked for, else as an interrupted job was begun with, whose environment says it under
    "threads"; None: it begins now, see choose_threads.

    Libraries split a sum by the number of threads, and with it go the last bits of a result.
    """
    if environment is None or asked is not None:
        return computing_with(choose_threads(asked))
    begun = environment.get("threads")
    return computing_with(begun if isinstance(begun, int) and 1 <= begun <= MOST else None)


def check_threads(threads: int | None) -> None:
    """Raises UsageError where that is no number of threads."""
    if threads is not None and not 1 <= threads <= MOST:
        raise UsageError(f"threads must be from 1 to {MOST}, got {threads}", "leave --threads out")


def cores() -> int:
    """The cores that this process may use: by its affinity and by the quota of its container."""
    mine, quota = len(os.sched_getaffinity(0)), _quota()
    return mine if quota == math.inf else max(1, min(mine, math.ceil(quota)))


def idle_cores() -> int:
    """How many of them nothing else uses just now, at least one; all of them where the system does not say.

    The best of a few short looks, the first if it finds all idle: what runs for a moment does not count.
    """
    most, best = cores(), 0
    for _ in range(SAMPLES):
        before = _idle_seconds()
        begun = time.monotonic()
        time.sleep(SAMPLE_SECONDS)
        after, elapsed = _idle_seconds(), time.monotonic() - begun
        if before is None or after is None:
            return most
        best = max(best, round((after - before) / elapsed))
        if best >= most:
            return most
    return max(1, best)


def _idle_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the cores of this process have been idle, in sum; None where the system does not count them."""
    mine, idle = {f"cpu{core}" for core in os.sched_getaffinity(0)}, 0
    try:
        for line in stat.read_text().splitlines():
            name, *ticks = line.split()
            if name in mine:
                idle += int(ticks[3]) + int(ticks[4])  # idle, and idle while a disk works
    except (OSError, ValueError, IndexError):
        return None
    return idle / os.sysconf("SC_CLK_TCK") if idle else None


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that the control groups (version 2) of this process grant; infinite where there is no limit."""
    try:
        (place,) = (line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        return math.inf
    folder, granted = root / place.strip("/"), math.inf
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        try:
            quota, period = (group / "cpu.max").read_text().split()
            granted = min(granted, math.inf if quota == "max" else int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return granted
