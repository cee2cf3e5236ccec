"""Opening what strangers named: links, pipes and devices never lead anywhere, and nothing blocks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from dpclean.errors import InputError, Reason

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Unusable(Exception):
    """This input is left out, for this reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def identity_of_folder(path: bytes) -> tuple[int, int]:
    """What tells a folder from another one that comes to lie at its path. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def check_there(root: Path, identity: tuple[int, int]) -> None:
    """Raises InputError when the folder that was opened does not lie at its path any more."""
    try:
        if identity_of_folder(os.fsencode(root)) == identity:
            return
        what = "another folder lies there now"
    except OSError as error:
        what = os.strerror(error.errno or errno.EIO).lower()
    raise InputError(
        f"{str(root)!r} went away while it was read: {what}", "put it back, or mount it; the same command goes on"
    )


def link_reason(root: bytes, name: bytes, follow_links: bool) -> Reason | None:
    """Why what symbolic links lead to is left out, or None: a regular file, inside the root or allowed outside."""
    try:
        target = os.path.realpath(os.path.join(root, name), strict=True)
        kind, leaves = os.stat(target).st_mode, target != root and not _inside(root, target) and not follow_links
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind) and leaves:
            return Reason.OUTSIDE_ROOT if leaves else None
        return Reason.NOT_REGULAR
    except PermissionError:
        return Reason.UNREADABLE
    except OSError:  # dangling, or a loop
        return Reason.NOT_REGULAR


def open_regular(root: bytes, name: bytes, follow_links: bool, identity: tuple[int, int] | None = None) -> int:
    """A descriptor of the regular file root/name. Raises Unusable; never waits for a pipe or a device.

    No link leads out of root, whether a file or a folder on the way became one since it was listed, unless
    follow_links. identity: of root; where another folder has come to lie there, everything in it has vanished.
    """
    try:
        descriptor = _open_unlinked(root, name, follow_links, identity)
    except OSError as error:
        raise Unusable(Reason.VANISHED if error.errno in _VANISHED else Reason.UNREADABLE) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise Unusable(Reason.NOT_REGULAR)


def _open_unlinked(root: bytes, name: bytes, follow_links: bool, identity: tuple[int, int] | None) -> int:
    try:
        return _open_below(root, name, identity)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise Unusable(Reason.NOT_REGULAR) from error
        if error.errno not in (errno.ELOOP, errno.ENOTDIR) or not _has_link(root, name):
            raise
    if reason := link_reason(root, name, follow_links):
        raise Unusable(reason)
    # No part of the target may be a link any more when it is opened.
    target = os.path.realpath(os.path.join(root, name), strict=True)
    if _inside(root, target):
        return _open_below(root, target[len(root.rstrip(b"/")) + 1 :], identity)
    return _open_below(b"/", target[1:], None)


def _open_below(root: bytes, name: bytes, identity: tuple[int, int] | None) -> int:
    """A descriptor of root/name, no part of name being a link. Raises OSError."""
    folder = os.open(root, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
    try:
        found = os.fstat(folder)
        if identity not in (None, (found.st_dev, found.st_ino)):
            raise FileNotFoundError(errno.ENOENT, "another folder lies there", root)
        *parts, last = name.split(b"/")
        for part in parts:
            inner = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(last, _FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _has_link(root: bytes, name: bytes) -> bool:
    parts = name.split(b"/")
    return any(os.path.islink(os.path.join(root, *parts[:count])) for count in range(1, len(parts) + 1))


def _inside(root: bytes, target: bytes) -> bool:
    return target.startswith(root.rstrip(b"/") + b"/")
