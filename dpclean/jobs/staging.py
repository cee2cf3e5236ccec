"""Work grows in a hidden folder beside OUT; one rename makes OUT; one lock lets one process at it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dpclean.errors import ConflictError, SetupError, UsageError
from dpclean.jobs.checks import given_path
from dpclean.jobs.durable import remove_unfinished, sync_file_system, sync_folder, write_durably, writing
from dpclean.jobs.lock import try_lock
from dpclean.jobs.record import Record, read_record
from dpclean.jobs.signals import first_signal

IGNORED = b"*\n"  # for git and all who read its files: the key and unfinished work are not to be shared
AT_WORK = "at-work"
REPLACED = "replaced"  # what was OUT, until the new one is
LONGEST_NAME = 220  # bytes: names beside OUT have OUT's own in them, and none is longer than 255


def mend(path: str | os.PathLike[str]) -> None:
    """Put back an OUT that a kill left away between the two renames of its replacement; path: it, or a file in it.

    Raises ConflictError where another process is at it, and SetupError.
    """
    named = os.path.abspath(path)
    for out in (named, os.path.dirname(named)):
        folder, name = os.path.split(out)
        if not os.path.lexists(out) and os.path.exists(os.path.join(folder, f".{name}.dpclean", REPLACED)):
            with Staging(Path(out)):
                pass  # to begin with it mends


class Staging:
    """The folder beside OUT that belongs to one job, `.<OUT>.dpclean/`, for its owner only; git ignores it.

    partial: what becomes OUT by one rename.
    work:    what the job needs until then and OUT does not.
    record:  what the job was begun with; it counts where there is a partial.
    key:     the secret key, mode 0600, never inside OUT.
    As a context manager it holds the job's lock, an operating-system lock that dies with its process. The folder stays
    as long as there is a key or unfinished work in it. All methods raise SetupError where the system refuses.
    """

    def __init__(self, out: Path) -> None:
        out = given_path(out)
        if len(os.fsencode(out.name)) > LONGEST_NAME:
            raise UsageError(
                f"the name of OUT is longer than {LONGEST_NAME} bytes, which leaves no room for the names beside it",
                "choose a shorter --out",
            )
        self.out = out.parent.resolve() / out.name if not out.is_symlink() else out.resolve()
        self.home = self.out.parent / f".{self.out.name}.dpclean"
        self.partial = self.home / "partial"
        self.work = self.home / "work"
        self.record = self.home / "job.json"
        self.key = self.home / "key"
        self._lock_path = self.home / "lock"
        self._replaced = self.home / REPLACED
        self._done_with = self.home / "done-with"
        self._ignore = self.home / ".gitignore"
        self._lock: BinaryIO | None = None

    def begun(self) -> Record | None:
        """What was begun and is not complete. Raises InputError, ConflictError where its record cannot be read."""
        return read_record(self.record) if self.partial.exists() else None

    def check_apart(self, *inputs: str | os.PathLike[str] | None) -> None:
        """Raise ConflictError where OUT is an input, lies in one, or one lies in it; names of other things are none."""
        for given in inputs:
            if given is None or not (path := given_path(given)).exists():
                continue
            path = path.resolve()
            if path == self.out or path in self.out.parents or self.out in path.parents:
                how = "is" if path == self.out else "lies inside" if path in self.out.parents else "lies around"
                raise ConflictError(
                    f"OUT {str(self.out)!r} {how} the input {str(path)!r}", "choose an --out apart from all inputs"
                )

    def __enter__(self) -> Staging:
        with writing(self.home):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        try:
            with writing(self.home):
                if not self._ignore.exists():
                    write_durably(self._ignore, IGNORED)
                remove_unfinished(self.home, deep=False)
                self._mend_replacement()
                if not self.partial.exists():
                    self._tidy()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Let go of the lock; the folder goes away where nothing of worth is in it."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            self._mend_replacement()
            if not self.partial.exists():
                self._tidy()
            self._lock_path.unlink()
            if set(os.listdir(self.home)) <= {self._ignore.name}:
                self._ignore.unlink(missing_ok=True)
                self.home.rmdir()
        self._lock.close()
        self._lock = None

    def _tidy(self) -> None:
        """Remove what belongs to no partial folder. Raises OSError."""
        self.record.unlink(missing_ok=True)
        if self._done_with.exists():
            shutil.rmtree(self._done_with)
        if self.work.exists():
            self.work.rename(self._done_with)  # at once: others may still look for something in it
            shutil.rmtree(self._done_with)

    def _mend_replacement(self) -> None:
        """Finish, or undo, a replacement of OUT that was cut off between its renames."""
        if self._replaced.exists() and self.out.exists():
            shutil.rmtree(self._replaced)
        elif self._replaced.exists():
            self._replaced.rename(self.out)

    def _take_lock(self) -> BinaryIO:
        """The lock file, open and locked. Raises OSError, and ConflictError where another process holds it."""
        while True:
            with contextlib.suppress(FileExistsError):
                self.home.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):  # the last holder removed the folder
                if not stat.S_ISDIR(self.home.lstat().st_mode):
                    raise ConflictError(f"{str(self.home)!r} is no folder", "move it away, or choose another --out")
                handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                file = os.fdopen(handle, "r+b")
                try:
                    if not try_lock(handle):
                        raise ConflictError(
                            f"another dpclean is at work on {str(self.out)!r}:"
                            f" {_describe(file.read(4096).decode('utf-8', 'replace'))}",
                            "wait for it or stop it, or choose another --out",
                        )
                    # the file may have been unlinked by its last holder between the open and the lock
                    if os.fstat(handle).st_ino == os.stat(self._lock_path).st_ino:
                        file.truncate(0)
                        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                        file.flush()
                        return file
                except BaseException:
                    file.close()
                    raise
                file.close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Says that this process works on what was begun, beside others that may."""
        with (self.work / AT_WORK).open("a") as file:
            try_lock(file.fileno(), shared=True)
            yield

    def is_busy(self) -> bool:
        """Whether other processes work on what was begun."""
        with contextlib.suppress(FileNotFoundError), (self.work / AT_WORK).open("r") as file:
            return not try_lock(file.fileno())
        return False

    def check_idle(self) -> None:
        """Raise ConflictError where other processes work on what was begun."""
        if self.is_busy():
            raise ConflictError(
                f"another command is at work on {str(self.out)!r}", "stop it first, or choose another --out"
            )

    def start(self, *, keep_key: bool = False) -> None:
        """Empty folders partial and work, whatever was there before, for an OUT that can be made by a rename."""
        self.discard(keep_key=keep_key)
        with writing(self.partial):
            self._try_replacing()
            self.work.mkdir()
            self.partial.mkdir()

    def _try_replacing(self) -> None:
        """Refuse, before the work, an OUT that is there and cannot be replaced: a mount, a layer below an overlay.

        The very renames that commit will need are tried, with OUT itself and back, or with another empty folder.
        """
        if not self.out.exists():
            return
        try:
            if any(self.out.iterdir()):
                self.out.rename(self._replaced)
                self._replaced.rename(self.out)
            else:
                self.partial.mkdir()
                self.partial.rename(self.out)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            with contextlib.suppress(OSError):
                self.partial.rmdir()
            what = "is a mount point" if error.errno == errno.EBUSY else "lies in a lower layer of an overlay"
            raise SetupError(
                f"{str(self.out)!r} {what}, so it cannot be replaced whole",
                f"give a folder in it that is not there yet: --out {str(self.out / 'clean')!r}"
                if error.errno == errno.EBUSY
                else "choose an --out that is not there yet",
            ) from error

    def discard(self, *, keep_key: bool = False) -> None:
        """Remove what was begun, and the key unless it is that of OUT: nothing of this job is left."""
        with writing(self.home):
            self.record.unlink(missing_ok=True)
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self._tidy()
            if not keep_key:
                self.key.unlink(missing_ok=True)

    def commit(self) -> None:
        """Make the partial folder OUT: sync it, move an OUT that is to be replaced aside, rename."""
        with writing(self.out):
            remove_unfinished(self.partial, deep=True)
            sync_file_system(self.partial)
            with first_signal():  # no moment without OUT
                if self.out.exists() and any(self.out.iterdir()):
                    self.out.rename(self._replaced)
                self.partial.rename(self.out)
                sync_folder(self.out.parent)
            if self._replaced.exists():
                shutil.rmtree(self._replaced)
            self._tidy()


def _describe(holder: str) -> str:
    try:
        fields = json.loads(holder)
        return f"process {fields['pid']} on {fields['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said its name"
