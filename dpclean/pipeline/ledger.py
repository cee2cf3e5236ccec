"""The ledger of a job: an SQLite file with the frozen parameters and one row a sample, in order."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from dpclean.errors import ConflictError, InternalError, Reason, SetupError

T = TypeVar("T")

FORMAT = 3
PAGE = 4096  # rows of the listing that are read together
AGAIN = "again"  # key of the job table, where rows of a complete OUT are, or were, done anew
PENDING, DONE, QUARANTINED, LEFT_BEHIND = "pending", "done", "quarantined", "left-behind"
# results of SQLite that speak of the disk, not of what is on it
_DISK = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
)
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE job (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE samples (
    position INTEGER PRIMARY KEY,   -- from 0, the place in the frozen listing
    name BLOB NOT NULL,             -- bytes as the file system has them
    label INTEGER NOT NULL,         -- class number, -1 none
    target BLOB NOT NULL,           -- name of the output file or shard
    status TEXT NOT NULL,           -- {PENDING} | {DONE} | {QUARANTINED} | {LEFT_BEHIND}
    reason TEXT,                    -- of quarantine; while pending: what the listing alone tells
    height INTEGER, width INTEGER, channels INTEGER,
    raw_sha256 BLOB,                -- of the raw pixels [H, W, C]
    clean_sha256 BLOB,              -- of the sanitized pixels [H, W, C]
    file_sha256 BLOB,               -- of the file in OUT; NULL in shards
    raw_size INTEGER, raw_mtime_ns INTEGER, -- of the file in RAW when it was listed; NULL where nothing could be told
    run INTEGER NOT NULL DEFAULT 0  -- of its noise; another one where a changed image was done anew
);
PRAGMA user_version = {FORMAT};
COMMIT;
"""
# rows that no dpclean writes: of other types, without digests, or done though an earlier one is pending, unless some
# are done anew
_UNSOUND = f"""
SELECT coalesce(sum(NOT (
    typeof(name) = 'blob' AND typeof(label) = 'integer' AND typeof(target) = 'blob'
    AND typeof(run) = 'integer' AND run >= 0
    AND status IN ('{PENDING}', '{DONE}', '{QUARANTINED}', '{LEFT_BEHIND}')
    AND (status != '{QUARANTINED}' OR typeof(reason) = 'text')
    AND (status != '{DONE}' OR (
        typeof(height) = 'integer' AND typeof(width) = 'integer' AND typeof(channels) = 'integer'
        AND typeof(raw_sha256) = 'blob' AND length(raw_sha256) = 32
        AND typeof(clean_sha256) = 'blob' AND length(clean_sha256) = 32))
)), 0)
+ (count(*) != coalesce(max(position), -1) + 1)
+ coalesce(max(iif(status != '{PENDING}', position, -1)) > min(iif(status = '{PENDING}', position, NULL))
    AND NOT EXISTS (SELECT 1 FROM job WHERE key = '{AGAIN}'), 0)
FROM samples
"""


Stamp = tuple[int, int] | tuple[None, None]  # size in bytes and time of the last change in ns, of a file in RAW


class Listed(msgspec.Struct, frozen=True):
    """One row of the frozen listing."""

    position: int
    name: bytes
    label: int
    target: bytes
    reason: str | None = None  # why it is left out, as far as the listing alone tells
    stamp: Stamp = (None, None)


class Outcome(msgspec.Struct, frozen=True):
    """What became of one sample of the listing."""

    position: int
    name: bytes
    status: str
    reason: str | None = None
    shape: tuple[int, int, int] | tuple[None, None, None] = (None, None, None)
    raw_sha256: bytes | None = None
    clean_sha256: bytes | None = None


Digested = tuple[bytes, int, int, int, int, bytes]  # name or target, label, H, W, C, SHA-256 of the pixels
File = tuple[bytes, bytes | None]  # name in OUT; SHA-256, None for a shard
_Run = tuple[Any, ...]  # what samples that are recorded together have in common


class Done(msgspec.Struct, frozen=True):
    """A sample that was sanitized: its row of the listing and its digests."""

    position: int
    name: bytes
    label: int
    target: bytes
    shape: tuple[int, int, int]
    raw_sha256: bytes
    clean_sha256: bytes


class Ledger:
    """Open, or create, the ledger of a job. One writer; the job's lock sees to that."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise self._damaged("it is no regular file")
        mode = "rwc" if writable else "ro"
        with self._asked():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
            self._db.execute("PRAGMA synchronous = FULL")
            found = self._scalar("PRAGMA user_version")
            # what was killed while it was created is as good as new: all of it is one transaction
            if writable and found == 0 and self._scalar("SELECT count(*) FROM sqlite_master") == 0:
                self._db.executescript(_SCHEMA)
                found = FORMAT
            sound = self._scalar("PRAGMA quick_check")
        if sound != "ok":
            raise self._damaged(sound)
        if found != FORMAT:
            raise ConflictError(
                f"the ledger {str(path)!r} has format {found}, this dpclean reads {FORMAT}",
                "use the dpclean that wrote it, or start again with --overwrite",
            )
        if unsound := self._scalar(_UNSOUND):
            raise self._damaged(f"{unsound} rows are not what dpclean writes")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Whatever SQLite refuses inside is a SetupError where the disk is to blame, else the ledger is damaged."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code not in _DISK:
                raise self._damaged(str(error)) from error
            raise SetupError(
                f"cannot use the ledger {str(self.path)!r}: {error}",
                "check space and permissions; the same command goes on",
            ) from error

    def _damaged(self, detail: str) -> ConflictError:
        return ConflictError(f"the ledger {str(self.path)!r} is damaged: {detail}", "start again with --overwrite")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it ends. Raises SetupError where the disk refuses."""
        with self._asked():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def get(self, key: str, kind: type[T]) -> T | None:
        """A value of the job table, None where it is not set. Raises ConflictError where it is of another kind."""
        with self._asked():
            row = self._db.execute("SELECT value FROM job WHERE key = ?", (key,)).fetchone()
        try:
            value = json.loads(row[0]) if row else None
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"{key} is no JSON") from error
        if row and not isinstance(value, kind):
            raise self._damaged(f"{key} is no {kind.__name__}")
        return value

    def known(self, key: str, kind: type[T]) -> T:
        """A value of the job table that every ledger of a begun job has."""
        value = self.get(key, kind)
        if value is None:
            raise self._damaged(f"{key} is missing")
        return value

    def set(self, key: str, value: Any) -> None:
        """Set a JSON value of the job table; inside a transaction."""
        self._db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def freeze(self, listing: Iterable[Listed]) -> int:
        """Write the listing, each sample pending; inside a transaction. Returns its length."""
        rows = ((e.position, e.name, e.label, e.target, e.reason, *e.stamp, PENDING) for e in listing)
        return self._db.executemany(
            "INSERT INTO samples (position, name, label, target, reason, raw_size, raw_mtime_ns, status)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        ).rowcount

    def redo(self, rows: Iterable[Listed]) -> None:
        """Make samples pending again, as RAW lists them now; inside a transaction.

        Noise is never used for two images: a sample that had been noised gets a run that no sample has had.
        """
        run = 1 + self._scalar("SELECT max(run) FROM samples")
        self._db.executemany(
            f"UPDATE samples SET run = iif(status = '{DONE}' OR reason = '{Reason.NOT_FINITE}', ?, run), status = ?,"
            " target = ?, reason = ?, raw_size = ?, raw_mtime_ns = ?, height = NULL, width = NULL, channels = NULL,"
            " raw_sha256 = NULL, clean_sha256 = NULL, file_sha256 = NULL WHERE position = ? AND name = ?",
            ((run, PENDING, e.target, e.reason, *e.stamp, e.position, e.name) for e in rows),
        )

    def listing(self, *, pending: bool = False) -> Iterator[Listed]:
        """The frozen listing, or what of it is pending, in order; rows may be recorded meanwhile."""
        start, target = 0, b""
        query = (
            "SELECT position, name, label, target, reason, raw_size, raw_mtime_ns FROM samples"
            " WHERE position >= ? AND status LIKE ? ORDER BY position LIMIT ?"
        )
        while rows := list(self._rows(query, start, PENDING if pending else "%", PAGE)):
            for position, name, label, named, reason, size, mtime in rows:
                if named != target:
                    target = named
                    if b".." in target.split(b"/") or target.startswith(b"/"):
                        raise self._damaged(f"{os.fsdecode(target)!r} leads out of OUT")
                yield Listed(position, name, label, target, reason, (size, mtime))
            start = rows[-1][0] + 1

    def record(self, outcomes: Iterable[Outcome], files: Mapping[int, File] = MappingProxyType({})) -> None:
        """What became of samples, and their files in OUT by position; inside a transaction.

        Raises InternalError where one is not in the listing under its position and name, or is not pending any more.
        """
        outcomes = sorted(outcomes, key=lambda outcome: outcome.position)
        if unknown := self._not_awaited(outcomes):
            raise InternalError(
                f"{unknown} of {len(outcomes)} samples are not those that the listing awaits",
                "nothing of them was recorded; please report it",
            )

        def in_common(place_and_outcome: tuple[int, Outcome]) -> _Run:
            place, o = place_and_outcome
            file = files.get(o.position, (None, None))
            return o.position - place, o.status, o.reason, o.shape, *file, o.raw_sha256 is None, o.clean_sha256 is None

        # one statement for neighbours that differ in their digests only: rows of shards cost a third
        for of_run, members in itertools.groupby(enumerate(outcomes), in_common):
            run = [outcome for _, outcome in members]
            _, status, reason, shape, target, file_sha256, no_raw, no_clean = of_run
            first = run[0].position
            self._db.execute(
                "UPDATE samples SET status = ?, reason = ?, height = ?, width = ?, channels = ?,"
                " raw_sha256 = substr(?, 1 + 32 * (position - ?), 32),"
                " clean_sha256 = substr(?, 1 + 32 * (position - ?), 32),"
                " target = coalesce(?, target), file_sha256 = ? WHERE position BETWEEN ? AND ?",
                (status, reason, *shape)
                + (None if no_raw else b"".join(o.raw_sha256 or b"" for o in run), first)
                + (None if no_clean else b"".join(o.clean_sha256 or b"" for o in run), first)
                + (target, file_sha256, first, run[-1].position),
            )

    def _not_awaited(self, outcomes: Sequence[Outcome]) -> int:
        """How many of these, sorted by position, the listing does not await under their position and name."""
        if not outcomes:
            return 0
        query = "SELECT position, name FROM samples WHERE position BETWEEN ? AND ? AND status = ?"
        awaited = list(self._rows(query, outcomes[0].position, outcomes[-1].position, PENDING))
        come = [(outcome.position, outcome.name) for outcome in outcomes]
        return 0 if come == awaited else len(come) - len(set(come).intersection(awaited))

    def runs(self) -> dict[int, int]:
        """The run of a sample's noise by position, where it is not 0."""
        return dict(self._rows("SELECT position, run FROM samples WHERE run != 0"))

    def images_by_run(self) -> dict[int, int]:
        """Sanitized samples by the run of their noise."""
        return dict(self._rows("SELECT run, count(*) FROM samples WHERE status = ? GROUP BY run ORDER BY run", DONE))

    def count(self, status: str | None = None) -> int:
        """Rows, or rows of a status."""
        if status is None:
            return int(self._scalar("SELECT count(*) FROM samples") or 0)
        return int(self._scalar("SELECT count(*) FROM samples WHERE status = ?", status) or 0)

    def reasons(self) -> dict[str, int]:
        """Quarantined samples by reason."""
        counts = "SELECT reason, count(*) FROM samples WHERE status = ? GROUP BY reason ORDER BY reason"
        return dict(self._rows(counts, QUARANTINED))

    def bad(self, but: Collection[str]) -> frozenset[int]:
        """The positions of what was left out, but for these reasons."""
        rows = self._rows("SELECT position, reason FROM samples WHERE status = ?", QUARANTINED)
        return frozenset(position for position, reason in rows if reason not in but)

    def quarantined(self) -> Iterator[tuple[bytes, str]]:
        """(name, reason) of what was left out, in order."""
        return self._rows("SELECT name, reason FROM samples WHERE status = ? ORDER BY position", QUARANTINED)

    def done(self) -> Iterator[Done]:
        """The samples that were sanitized, in the order of the listing."""
        rows = self._rows(
            "SELECT position, name, label, target, height, width, channels, raw_sha256, clean_sha256"
            " FROM samples WHERE status = ? ORDER BY position",
            DONE,
        )
        for position, name, label, target, height, width, channels, raw, clean in rows:
            yield Done(position, name, label, target, (height, width, channels), raw, clean)

    def raw_digests(self) -> Iterator[tuple[int, Digested]]:
        """Of the samples that were sanitized, in the order of the listing: their positions, and what they were."""
        columns = "position, name, label, height, width, channels, raw_sha256"
        rows = self._rows(f"SELECT {columns} FROM samples WHERE status = ? ORDER BY position", DONE)
        return ((row[0], row[1:]) for row in rows)

    def clean_digests(self) -> Iterator[Digested]:
        """Of the samples that were sanitized, in the order of their places in OUT: what they are."""
        columns = "target, label, height, width, channels, clean_sha256"
        return self._rows(f"SELECT {columns} FROM samples WHERE status = ? ORDER BY target, position", DONE)

    def raw_prefixes(self) -> Iterator[bytes]:
        """The first 8 bytes of the digests of the raw pixels that were sanitized, sorted, each once."""
        query = "SELECT DISTINCT substr(raw_sha256, 1, 8) FROM samples WHERE status = ? ORDER BY 1"
        return map(itemgetter(0), self._rows(query, DONE))

    def files(self) -> Iterator[File]:
        """The files of OUT that hold data, in byte order of their names, each once."""
        return self._rows("SELECT DISTINCT target, file_sha256 FROM samples WHERE status = ? ORDER BY target", DONE)

    def seen(self, position: int) -> tuple[str, str | None, bytes | None]:
        """(status, reason, raw_sha256) of a sample."""
        query = "SELECT status, reason, raw_sha256 FROM samples WHERE position = ?"
        found: tuple[str, str | None, bytes | None] = next(self._rows(query, position))
        return found

    def named_targets(self) -> Callable[[bytes], bool]:
        """A test whether a file of OUT is one that holds data."""
        with self._asked():
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS targets (name BLOB PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("INSERT OR IGNORE INTO targets SELECT target FROM samples WHERE status = ?", (DONE,))
        return lambda name: bool(self._scalar("SELECT count(*) FROM targets WHERE name = ?", name))

    def labels_done(self) -> dict[int, int]:
        """Sanitized samples by label."""
        return dict(self._rows("SELECT label, count(*) FROM samples WHERE status = ? GROUP BY label", DONE))

    def _scalar(self, query: str, *values: object) -> Any:
        return next(self._rows(query, *values))[0]

    def _rows(self, query: str, *values: object) -> Iterator[Any]:
        with self._asked():
            # the cursor itself would be closed where this generator is, which may be after its database
            yield from iter(self._db.execute(query, values).fetchone, None)
