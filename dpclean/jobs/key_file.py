"""The secret key of a job: one line of hex beside OUT, readable by its owner only."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

from dpclean.errors import ConflictError
from dpclean.jobs.durable import write_durably, writing
from dpclean.small_files import read_small_file


def write_key(path: Path, key: bytes) -> None:
    """Write a 32-byte key, mode 0600. Raises SetupError."""
    write_durably(path, key.hex().encode() + b"\n", mode=0o600)


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file. Raises ConflictError if it is missing, damaged or readable by others."""
    remedy = f"put the key back at {str(path)!r} with mode 0600, or start again with --overwrite"
    try:
        open_to_others = path.stat().st_mode & 0o077
        key = bytes.fromhex(read_small_file(path).decode("ascii").strip())
    except FileNotFoundError as error:
        raise ConflictError(f"the key file {str(path)!r} is missing", remedy) from error
    except OSError as error:
        raise ConflictError(f"the key file {str(path)!r} cannot be read: {error.strerror}", remedy) from error
    except ValueError as error:
        raise ConflictError(f"the key file {str(path)!r} is damaged", remedy) from error
    if len(key) != 32:
        raise ConflictError(f"the key file {str(path)!r} does not hold 32 bytes", remedy)
    if open_to_others:
        if _keeps_modes(path.parent):
            raise ConflictError(
                f"the key file {str(path)!r} can be read by others",
                "chmod 600 it if it stayed secret, or start again with --overwrite",
            )
        warnings.warn("the disk of OUT keeps no permissions: others may be able to read the key", stacklevel=1)
    return key


def _keeps_modes(folder: Path) -> bool:
    """Whether a file that is made for its owner alone is so; on CIFS and the like it is not."""
    with writing(folder), tempfile.NamedTemporaryFile(dir=folder) as probe:
        return not os.fstat(probe.fileno()).st_mode & 0o077
