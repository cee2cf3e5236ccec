"""Work grows in a hidden sibling of OUT; one rename makes OUT; one lock lets one process at it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType

from dpclean.errors import ConflictError, SetupError


class Staging:
    """The folders and files beside OUT that belong to one job.

    partial: `.<OUT>.dpclean-partial/`, where work goes until it is complete.
    key:     `.<OUT>.dpclean-key`, mode 0600, never inside OUT.
    As a context manager it holds the job's lock, an operating-system lock that dies with its process.
    """

    def __init__(self, out: Path) -> None:
        out = out.expanduser()
        self.out = out.parent.resolve() / out.name if not out.is_symlink() else out.resolve()
        self.partial = self._beside("partial")
        self.key = self._beside("key")
        self._lock_path = self._beside("lock")
        self._replaced = self._beside("replaced")
        self._lock: int | None = None

    def _beside(self, role: str) -> Path:
        return self.out.parent / f".{self.out.name}.dpclean-{role}"

    def __enter__(self) -> Staging:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise SetupError(
                f"cannot write beside {str(self.out)!r}: {error.strerror}", "choose an --out on a writable disk"
            ) from error
        self._mend_replacement()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        with contextlib.suppress(OSError):
            self._lock_path.unlink()
        os.close(self._lock)
        self._lock = None

    def _mend_replacement(self) -> None:
        """Finish, or undo, a replacement of OUT that was cut off between its renames."""
        if self._replaced.exists() and self.out.exists():
            shutil.rmtree(self._replaced)
        elif self._replaced.exists() and not self.partial.exists():
            self._replaced.rename(self.out)

    def _take_lock(self) -> int:
        while True:
            handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # the file may have been unlinked by its last holder between the open and the lock
                if os.fstat(handle).st_ino == os.stat(self._lock_path).st_ino:
                    os.truncate(handle, 0)
                    os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                    return handle
            except BlockingIOError as error:
                holder = os.pread(handle, 4096, 0).decode("utf-8", "replace")
                os.close(handle)
                raise ConflictError(
                    f"another dpclean is at work on {str(self.out)!r}: {_describe(holder)}",
                    "wait for it or stop it, or choose another --out",
                ) from error
            except FileNotFoundError:
                pass
            os.close(handle)

    def start(self) -> None:
        """An empty partial folder, whatever was there before."""
        self.discard()
        self.partial.mkdir(mode=0o755)

    def discard(self) -> None:
        """Remove the partial folder and the key: nothing of this job is left."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.key.unlink(missing_ok=True)

    def commit(self) -> None:
        """Make the partial folder OUT: sync it, move an OUT that is to be replaced aside, rename."""
        for folder, _, files in os.walk(self.partial, topdown=False):
            for name in files if Path(folder) == self.partial else ():
                sync_path(Path(folder, name))
            sync_path(Path(folder))
        if self.out.exists() and any(self.out.iterdir()):
            self.out.rename(self._replaced)
        self.partial.rename(self.out)
        sync_path(self.out.parent)
        if self._replaced.exists():
            shutil.rmtree(self._replaced)


def _describe(holder: str) -> str:
    try:
        fields = json.loads(holder)
        return f"process {fields['pid']} on {fields['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said its name"


def sync_path(path: Path) -> None:
    """fsync of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file whole: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.rename(path)
    sync_path(path.parent)
