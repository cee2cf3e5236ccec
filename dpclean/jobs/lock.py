"""Locks of the operating system on open files: each dies with the process that took it."""

from __future__ import annotations

import fcntl


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Whether an open file's lock is this process's from now on; never waits. Raises OSError.

    shared: any number may have it at once, but nobody while one has it alone.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
