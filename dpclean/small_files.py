"""Small files from strangers are read whole, within a limit; a pipe or a device is refused and never waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LIMIT = 64 << 20  # bytes: far above any configuration, key, manifest or description
LARGE_LIMIT = 1 << 30  # bytes: for what grows with the number of images or of points


def read_small_file(path: Path, limit: int = LIMIT) -> bytes:
    """The bytes of a regular file of at most limit bytes.

    Raises OSError, with a strerror that says why: what opening raises, or that it is no regular file, or too large.
    """
    with os.fdopen(open_regular_file(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))
    return data


def open_regular_file(path: Path) -> int:
    """The descriptor of a regular file, opened to be read. Raises OSError as read_small_file does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer does not block
    except ValueError as error:
        raise _no_such_name(path) from error
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular_file(path: Path) -> None:
    """For a large file that a library opens by its name. Raises OSError where it is missing or no regular file."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise _no_such_name(path) from error
    _check_kind(path, mode)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))


def _no_such_name(path: Path) -> OSError:
    return FileNotFoundError(errno.ENOENT, "no file can have a name with a NUL in it", str(path))
