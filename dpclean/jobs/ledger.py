"""The ledger of a job: an SQLite file with the frozen parameters and one row a sample, in order."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dpclean.errors import ConflictError, InternalError, SetupError

FORMAT = 1
PAGE = 4096  # rows of the listing that are read together
PENDING, DONE, QUARANTINED, LEFT_BEHIND = "pending", "done", "quarantined", "left-behind"
_SCHEMA = f"""
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
    clean_sha256 BLOB               -- of the sanitized pixels [H, W, C]
);
PRAGMA user_version = {FORMAT};
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of the frozen listing."""

    position: int
    name: bytes
    label: int
    target: bytes
    reason: str | None = None  # why it is left out, as far as the listing alone tells


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample of the listing."""

    position: int
    name: bytes
    status: str
    reason: str | None = None
    shape: tuple[int, int, int] | tuple[None, None, None] = (None, None, None)
    raw_sha256: bytes | None = None
    clean_sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Done:
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
        fresh = writable and not path.exists()
        try:
            mode = "rwc" if writable else "ro"
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
            self._db.execute("PRAGMA synchronous = FULL")
            if fresh:
                self._db.executescript(_SCHEMA)
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            sound = self._db.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.OperationalError as error:
            raise SetupError(
                f"cannot open the ledger {str(path)!r}: {error}", "check permissions and space, then go on"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        if sound != "ok":
            raise self._damaged(sound)
        if found != FORMAT:
            raise ConflictError(
                f"the ledger {str(path)!r} has format {found}, this dpclean reads {FORMAT}",
                "use the dpclean that wrote it, or start again with --overwrite",
            )

    def _damaged(self, detail: str) -> ConflictError:
        return ConflictError(f"the ledger {str(self.path)!r} is damaged: {detail}", "start again with --overwrite")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it ends. Raises SetupError where the disk refuses."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise SetupError(
                f"cannot write the ledger {str(self.path)!r}: {error}", "free some space; the same command goes on"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def get(self, key: str) -> Any:
        """A value of the job table, None where it is not set."""
        row = self._db.execute("SELECT value FROM job WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set(self, key: str, value: Any) -> None:
        """Set a JSON value of the job table; inside a transaction."""
        self._db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def freeze(self, listing: Iterable[Listed]) -> int:
        """Write the listing, each sample pending; inside a transaction. Returns its length."""
        rows = ((e.position, e.name, e.label, e.target, e.reason, PENDING) for e in listing)
        return self._db.executemany(
            "INSERT INTO samples (position, name, label, target, reason, status) VALUES (?, ?, ?, ?, ?, ?)", rows
        ).rowcount

    def listing(self, start: int = 0) -> Iterator[Listed]:
        """The frozen listing from a position on, in order; rows may be recorded meanwhile."""
        query = (
            "SELECT position, name, label, target, reason FROM samples WHERE position >= ? ORDER BY position LIMIT ?"
        )
        while rows := self._db.execute(query, (start, PAGE)).fetchall():
            yield from (Listed(*row) for row in rows)
            start = rows[-1][0] + 1

    def record(self, outcomes: Iterable[Outcome], targets: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """What became of samples, and under which name where it is not the listing's; inside a transaction.

        Raises InternalError where one is not in the listing under its position and name, or is not pending any more.
        """
        outcomes = list(outcomes)
        recorded = self._db.executemany(
            "UPDATE samples SET status = ?, reason = ?, height = ?, width = ?, channels = ?, raw_sha256 = ?,"
            " clean_sha256 = ?, target = coalesce(?, target) WHERE position = ? AND name = ? AND status = ?",
            (
                (o.status, o.reason, *o.shape, o.raw_sha256, o.clean_sha256, targets.get(o.position))
                + (o.position, o.name, PENDING)
                for o in outcomes
            ),
        ).rowcount
        if recorded != len(outcomes) and outcomes:
            raise InternalError(
                f"{len(outcomes) - recorded} of {len(outcomes)} samples are not those that the listing awaits",
                "nothing of them was recorded; please report it",
            )

    def first_pending(self) -> int | None:
        """The position that comes next, None when nothing is left."""
        found: int | None = self._scalar("SELECT min(position) FROM samples WHERE status = ?", PENDING)
        return found

    def count(self, status: str | None = None) -> int:
        """Rows, or rows of a status."""
        if status is None:
            return int(self._scalar("SELECT count(*) FROM samples") or 0)
        return int(self._scalar("SELECT count(*) FROM samples WHERE status = ?", status) or 0)

    def reasons(self) -> dict[str, int]:
        """Quarantined samples by reason."""
        return dict(
            self._db.execute(
                "SELECT reason, count(*) FROM samples WHERE status = ? GROUP BY reason ORDER BY reason", (QUARANTINED,)
            )
        )

    def quarantined(self) -> Iterator[tuple[bytes, str]]:
        """(name, reason) of what was left out, in order."""
        return iter(
            self._db.execute("SELECT name, reason FROM samples WHERE status = ? ORDER BY position", (QUARANTINED,))
        )

    def done(self, *, by_target: bool = False) -> Iterator[Done]:
        """The samples that were sanitized, in the order of the listing or of their places in OUT."""
        cursor = self._db.execute(
            "SELECT position, name, label, target, height, width, channels, raw_sha256, clean_sha256"
            f" FROM samples WHERE status = ? ORDER BY {'target, position' if by_target else 'position'}",
            (DONE,),
        )
        for position, name, label, target, height, width, channels, raw, clean in cursor:
            yield Done(position, name, label, target, (height, width, channels), raw, clean)

    def raw_prefixes(self) -> list[bytes]:
        """The first 8 bytes of the digests of the raw pixels that were sanitized, sorted, each once."""
        cursor = self._db.execute(
            "SELECT DISTINCT substr(raw_sha256, 1, 8) FROM samples WHERE status = ? ORDER BY 1", (DONE,)
        )
        return [prefix for (prefix,) in cursor]

    def labels_done(self) -> dict[int, int]:
        """Sanitized samples by label."""
        return dict(self._db.execute("SELECT label, count(*) FROM samples WHERE status = ? GROUP BY label", (DONE,)))

    def _scalar(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()[0]
