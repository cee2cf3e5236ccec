"""Making what was written survive a power cut."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from dpclean.data.writer import write_error


def sync_file_system(root: Path) -> None:
    """Flushes everything written to the file system of root, data, files and folders; by whatever process.

    One call for thousands of files; an fsync for each would cost a disk access each. Raises SetupError.
    """
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(root, error) from error
