"""Whatever lies where dpclean's own records should be: a refusal that names it, never a traceback, never a wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpclean.data import manifest
from dpclean.errors import ConflictError, InputError
from dpclean.jobs.record import read_record
from dpclean.pipeline.ledger import Ledger

READERS: dict[str, Callable[[Path], Any]] = {
    manifest.NAME: lambda path: manifest.read(path.parent),
    "job.json": read_record,
    manifest.LEDGER_NAME: Ledger,
}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "not JSON": lambda path: path.write_text("{" * 2000),
    "not UTF-8": lambda path: path.write_bytes(b'{"format": "\xff"}'),
    "another kind": lambda path: path.write_text("[1]"),
    "keys missing": lambda path: path.write_text("{}"),
    "wrong types": lambda path: path.write_text('{"format": {}, "parameters": 3, "environment": "x"}'),
    "nested": lambda path: path.write_text("[" * 200_000),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    DAMAGES[damage](tmp_path / name)
    with pytest.raises((InputError, ConflictError), match=name):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_no_record_is_none(tmp_path: Path, name: str) -> None:
    if READERS[name] is not Ledger:
        assert READERS[name](tmp_path / name) is None


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE samples SET clean_sha256 = x'00' WHERE position = 0",
        "UPDATE samples SET status = 'pending' WHERE position = 0",
        "UPDATE samples SET status = 'odd' WHERE position = 1",
        "UPDATE samples SET name = 'text' WHERE position = 1",
        "DELETE FROM samples WHERE position = 0",
        "DROP TABLE samples",
    ],
)
def test_rows_that_dpclean_does_not_write_are_found(tmp_path: Path, edit: str) -> None:
    import sqlite3

    from dpclean.pipeline.ledger import DONE, Listed, Outcome

    ledger = Ledger(tmp_path / "ledger")
    with ledger.transaction():
        ledger.freeze(Listed(n, b"%d" % n, 0, b"%d.png" % n) for n in range(3))
        ledger.record([Outcome(n, b"%d" % n, DONE, None, (1, 1, 1), bytes(32), bytes(32)) for n in range(2)])
    ledger.close()
    Ledger(tmp_path / "ledger").close()
    with sqlite3.connect(tmp_path / "ledger") as db:
        db.execute(edit)
    with pytest.raises(ConflictError, match="damaged"):
        Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("value", ["{", "null", "3"])
def test_values_of_another_kind_are_found(tmp_path: Path, value: str) -> None:
    import sqlite3

    ledger = Ledger(tmp_path / "ledger")
    assert ledger.get("engine", dict) is None
    with pytest.raises(ConflictError, match="engine is missing"):
        ledger.known("engine", dict)
    with sqlite3.connect(tmp_path / "ledger") as db:
        db.execute("INSERT INTO job VALUES ('engine', ?)", (value,))
    with pytest.raises(ConflictError, match="damaged: engine"):
        ledger.known("engine", dict)


def test_a_target_that_leads_out_of_out_is_found(tmp_path: Path) -> None:
    from dpclean.pipeline.ledger import Listed

    ledger = Ledger(tmp_path / "ledger")
    with ledger.transaction():
        ledger.freeze([Listed(0, b"x", 0, b"../../evil")])
    with pytest.raises(ConflictError, match="out of OUT"):
        list(ledger.listing())
