"""Opening what strangers named: links, pipes and devices never lead anywhere, and nothing blocks."""

from __future__ import annotations

import errno
import os
import stat

from dpclean.errors import Reason

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Unusable(Exception):
    """This input is left out, for this reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def link_reason(root: bytes, name: bytes, follow_links: bool) -> Reason | None:
    """Why a symbolic link is left out, or None: it leads to a regular file inside the root or may leave it."""
    try:
        target = os.path.realpath(os.path.join(root, name), strict=True)
        if not stat.S_ISREG(os.stat(target).st_mode):
            return Reason.NOT_REGULAR
    except PermissionError:
        return Reason.UNREADABLE
    except OSError:  # dangling, or a loop
        return Reason.NOT_REGULAR
    inside = target.startswith(root.rstrip(b"/") + b"/")
    return None if inside or follow_links else Reason.OUTSIDE_ROOT


def open_regular(root: bytes, name: bytes, follow_links: bool) -> int:
    """A descriptor of the regular file root/name. Raises Unusable; never waits for a pipe or a device."""
    path = os.path.join(root, name)
    try:
        descriptor = _open_unlinked(root, name, path, follow_links)
    except OSError as error:
        raise Unusable(Reason.VANISHED if error.errno in _VANISHED else Reason.UNREADABLE) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise Unusable(Reason.NOT_REGULAR)


def _open_unlinked(root: bytes, name: bytes, path: bytes, follow_links: bool) -> int:
    try:
        return os.open(path, _FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise Unusable(Reason.NOT_REGULAR) from error
        if error.errno != errno.ELOOP:
            raise
    if reason := link_reason(root, name, follow_links):
        raise Unusable(reason)
    # The target itself must be no link any more when it is opened.
    return os.open(os.path.realpath(path, strict=True), _FLAGS | os.O_NOFOLLOW)
