"""The ledger: frozen listing, all-or-nothing rows, damage found."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpclean.errors import ConflictError, InternalError
from dpclean.pipeline.ledger import AGAIN, DONE, QUARANTINED, Ledger, Listed, Outcome


def filled(path: Path, count: int = 2000) -> Ledger:
    ledger = Ledger(path)
    with ledger.transaction():
        ledger.freeze(Listed(i, b"class/\xff %d.png" % i, i % 3, b"class/%d.png" % i) for i in range(count))
    return ledger


def test_the_listing_comes_back_byte_for_byte_in_order(tmp_path: Path) -> None:
    listed = list(filled(tmp_path / "l").listing())
    assert [row.position for row in listed] == list(range(2000))
    assert listed[7] == Listed(7, b"class/\xff 7.png", 1, b"class/7.png")


def test_an_interrupted_transaction_leaves_no_trace(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l")
    with pytest.raises(KeyboardInterrupt), ledger.transaction():
        ledger.record([Outcome(0, b"class/\xff 0.png", DONE)])
        raise KeyboardInterrupt
    ledger.close()
    assert Ledger(tmp_path / "l").count(DONE) == 0


def test_resume_starts_after_what_was_recorded(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l", 5)
    with ledger.transaction():
        ledger.record(
            [
                Outcome(0, b"class/\xff 0.png", DONE, None, (2, 3, 1), b"r" * 32, b"c" * 32),
                Outcome(1, b"class/\xff 1.png", QUARANTINED, "empty"),
            ]
        )
    ledger.close()
    again = Ledger(tmp_path / "l")
    assert [row.position for row in again.listing(pending=True)] == [2, 3, 4]
    assert list(again.quarantined()) == [(b"class/\xff 1.png", "empty")]
    (done,) = again.done()
    assert done.position == 0 and done.shape == (2, 3, 1) and done.clean_sha256 == b"c" * 32
    assert again.labels_done() == {0: 1} and again.reasons() == {"empty": 1}


def test_neighbours_that_are_recorded_together_keep_what_is_their_own(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l", 9)
    outcomes = [
        Outcome(n, b"class/\xff %d.png" % n, DONE, None, (2, 3, 1 if n < 3 else 3), b"r%d" % n * 16, b"c%d" % n * 16)
        for n in range(9)
    ]
    outcomes[5] = Outcome(5, b"class/\xff 5.png", QUARANTINED, "truncated")
    outcomes[6] = Outcome(6, b"class/\xff 6.png", QUARANTINED, "not-finite", raw_sha256=b"6" * 32)
    named = {7: (b"class/7.webp", b"f" * 32)}
    with ledger.transaction():
        ledger.record(outcomes[:2] + outcomes[:1:-1], named)  # in any order
    done = list(ledger.done())
    assert [(d.position, d.shape, d.raw_sha256, d.clean_sha256) for d in done] == [
        (o.position, o.shape, o.raw_sha256, o.clean_sha256) for o in outcomes if o.status == DONE
    ]
    assert [d.target for d in done if d.position >= 7] == [b"class/7.webp", b"class/8.png"]
    assert dict(ledger.files())[b"class/7.webp"] == b"f" * 32
    assert ledger.seen(5) == (QUARANTINED, "truncated", None)
    assert ledger.seen(6) == (QUARANTINED, "not-finite", b"6" * 32)


def test_an_outcome_of_another_name_or_of_what_is_done_already_is_refused(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l", 5)
    first = Outcome(0, b"class/\xff 0.png", DONE)
    for wrong in (Outcome(1, b"class/\xff 2.png", DONE), Outcome(9, b"class/\xff 9.png", DONE)):
        with pytest.raises(InternalError, match="1 of 2"), ledger.transaction():
            ledger.record([first, wrong])
    assert ledger.count(DONE) == 0
    with ledger.transaction():
        ledger.record([first])
    with pytest.raises(InternalError, match="1 of 1"), ledger.transaction():
        ledger.record([first])


@pytest.mark.parametrize("damage", ["zeroed page", "cut off", "not a ledger"])
def test_a_damaged_ledger_is_named_not_trusted(tmp_path: Path, damage: str) -> None:
    filled(tmp_path / "l").close()
    raw = bytearray((tmp_path / "l").read_bytes())
    if damage == "zeroed page":
        raw[8192:12288] = bytes(4096)
    elif damage == "cut off":
        del raw[len(raw) // 2 :]
    else:
        raw = bytearray(b"something else entirely, long enough to look like a file" * 99)
    (tmp_path / "l").write_bytes(raw)
    with pytest.raises(ConflictError, match="damaged"):
        Ledger(tmp_path / "l")


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    import sqlite3

    filled(tmp_path / "l").close()
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ConflictError, match="99"):
        Ledger(tmp_path / "l")


def test_a_sample_that_was_noised_gets_a_run_that_none_has_had_when_it_is_done_again(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l", 4)
    rows = list(ledger.listing())
    done = [Outcome(n, rows[n].name, DONE, None, (1, 1, 1), bytes(32), bytes(32)) for n in (0, 1)]
    bad = [Outcome(n, rows[n].name, QUARANTINED, reason) for n, reason in ((2, "truncated"), (3, "not-finite"))]
    with ledger.transaction():
        ledger.record(done + bad)
        ledger.set(AGAIN, {})
        ledger.redo(rows[1:])
    assert ledger.runs() == {1: 1, 3: 1} and [row.position for row in ledger.listing(pending=True)] == [1, 2, 3]
    with ledger.transaction():
        ledger.record([done[1], bad[0]])
        ledger.redo(rows[:3])
    assert ledger.runs() == {0: 2, 1: 2, 3: 1}
    ledger.close()
    Ledger(tmp_path / "l").close()
