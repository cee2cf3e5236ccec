"""Files that are whole and on the disk, or a refusal that names them: all that dpclean leaves behind passes here."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dpclean.errors import ConflictError, SetupError

NEW = ".dpclean-new"  # how the temporary names of files end that are being written
# what network and FUSE file systems answer who have no way to flush a folder
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES)

AnyPath = str | bytes | os.PathLike[str]


def write_error(path: AnyPath, error: OSError) -> SetupError:
    """The refusal that an error while writing path, or below it, becomes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(f"no space is left for {os.fsdecode(path)}", "free some, then give the same command again")
    what = os.strerror(error.errno).lower() if error.errno else str(error)
    return SetupError(f"{os.fsdecode(path)} cannot be written: {what}", "mend that, then give the same command again")


@contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """Whatever the system refuses inside becomes a SetupError that names path."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def open_new(path: AnyPath, mode: int = 0o666) -> BinaryIO:
    """A file that is not there yet, less the umask, never through a link; what is written to it is written whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


def write_durably(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o666, replace: bool = True) -> bool:
    """Write a file whole: temporary name, fsync, rename, fsync of the folder.

    With replace False a file that is there stays, and False is returned. Raises SetupError; then nothing is there, or
    what was there before.
    """
    temporary = path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}{NEW}")
    with writing(path):
        try:
            with open_new(temporary, mode) as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.rename(path)
            else:
                os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        sync_folder(path.parent)
    return True


def sealed(data: bytes) -> bytes:
    """Data with its digest behind it: how unfinished work is kept that is read again."""
    return data + hashlib.sha256(data).digest()


def unsealed(path: Path) -> bytes:
    """The data of a file that was sealed. Raises ConflictError where the file is not as it was written."""
    whole = path.read_bytes()
    data = whole[: -hashlib.sha256().digest_size]
    if sealed(data) != whole:
        raise ConflictError(
            f"unfinished work is damaged: {str(path)!r} is not what was written",
            "delete it, and give the same command again: that part is done anew; or start again with --overwrite",
        )
    return data


def remove_unfinished(folder: Path, *, deep: bool) -> None:
    """Unlink what a killed write_durably left in a folder, and with deep in all folders below. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(NEW):
                os.unlink(entry.path)
            elif deep and entry.is_dir(follow_symlinks=False):
                remove_unfinished(Path(entry.path), deep=True)


def sync_folder(path: Path) -> None:
    """fsync of a folder, so that names in it survive a power cut. Raises OSError.

    Where the file system has no such thing that is said once: a power cut may then cost the last names.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        warnings.warn("the disk of OUT cannot flush folders: a power cut may cost the last files", stacklevel=1)
    finally:
        os.close(handle)


def sync_file_system(root: Path) -> None:
    """Flush everything written to the file system of root, data, files and folders, by whatever process.

    One call for thousands of files; an fsync for each would cost a disk access each. Raises SetupError.
    """
    with writing(root):
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(handle)
