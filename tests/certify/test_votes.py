"""The votes file: read back as it was written, refused with a sentence where it is anything else; and counting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from dpclean.certify.votes import Votes, has_terms, job_id, read_plain_votes, read_votes, record, tally, votes_bytes
from dpclean.errors import ConflictError, InputError
from tests.certify.ballots import ballot, counted, terms

TABLE = np.array([[0, 1, -1], [2, 1, 0]], np.int32)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "votes.safetensors"
    path.write_bytes(data)
    return path


def test_votes_come_back_as_they_were_written(tmp_path: Path) -> None:
    votes = ballot(TABLE, labels=[0, -1, 2], point_names=["a\tb", "\udc80", "ß"])
    path = written(tmp_path, votes_bytes(votes))
    back = read_votes(path)
    assert (back.votes == TABLE).all() and back.terms == votes.terms and has_terms(path)
    assert back.labels is not None and back.labels.tolist() == [0, -1, 2]
    assert back.records is not None and votes.records is not None and (back.records == votes.records).all()
    assert votes_bytes(back) == votes_bytes(votes)


def test_votes_from_elsewhere_need_neither_labels_nor_terms(tmp_path: Path) -> None:
    path = written(tmp_path, save({"votes": TABLE}))
    votes, labels = read_plain_votes(path, 3)
    assert not has_terms(path) and (votes == TABLE).all() and labels is None


PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "wrong dtype": ({"votes": TABLE.astype(np.int64)}, "I64"),
    "floats": ({"votes": TABLE.astype(np.float32)}, "F32"),
    "wrong rank": ({"votes": TABLE[0]}, "[3]"),
    "zero runs": ({"votes": TABLE[:0]}, "[0, 3]"),
    "zero points": ({"votes": TABLE[:, :0]}, "[2, 0]"),
    "a class too high": ({"votes": TABLE + np.int32(1)}, "3"),
    "minus two": ({"votes": TABLE - np.int32(1)}, "-2"),
    "no votes": ({"voices": TABLE}, "'votes'"),
    "labels of other length": ({"votes": TABLE, "labels": np.zeros(2, np.int64)}, "labels"),
    "labels of other dtype": ({"votes": TABLE, "labels": np.zeros(3, np.int32)}, "labels"),
    "a label too high": ({"votes": TABLE, "labels": np.full(3, 3, np.int64)}, "'labels'"),
    "too many runs": ({"votes": np.zeros((10**6 + 1, 1), np.int32)}, "1000001"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_wrong_votes_are_refused_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    tensors, words = PLAIN[name]
    with pytest.raises(InputError) as refusal:
        read_plain_votes(written(tmp_path, save(tensors)), 3)
    assert words in refusal.value.message


def test_a_wrong_vote_is_named_by_run_and_point(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[1, 2] = 9
    with pytest.raises(InputError, match="9 in 'votes' of run 2 at point 2"):
        read_plain_votes(written(tmp_path, save({"votes": table})), 3)


def test_a_million_runs_are_counted(tmp_path: Path) -> None:
    votes, _ = read_plain_votes(written(tmp_path, save({"votes": np.zeros((10**6, 1), np.int32)})), 2)
    assert len(votes) == 10**6


def test_one_class_is_no_vote(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two classes"):
        read_plain_votes(written(tmp_path, save({"votes": np.zeros((2, 3), np.int32)})), 1)


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, save({"votes": TABLE})[:-1]])
@pytest.mark.parametrize("reader", [has_terms, read_votes, lambda path: read_plain_votes(path, 3)])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, data: bytes, reader: Any) -> None:
    with pytest.raises(InputError):
        reader(written(tmp_path, data))
    with pytest.raises(InputError):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize("runs", [1, 3])
def test_missing_and_additional_runs_are_refused(tmp_path: Path, runs: int) -> None:
    votes = ballot(TABLE)
    table = np.resize(TABLE, (runs, 3))
    records = np.zeros((runs, 32), np.uint8)
    path = written(tmp_path, votes_bytes(Votes(table, None, records, votes.terms)))
    with pytest.raises(InputError, match=f"{runs} runs on 3 points, its terms announce 2 on 3"):
        read_votes(path)


def test_a_newer_format_is_told_apart_from_damage(tmp_path: Path) -> None:
    newer = {**terms(2, 3), "format": 2, "tool": "dpclean 9.0"}
    with pytest.raises(ConflictError) as refusal:
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": json.dumps(newer)})))
    assert "dpclean 9.0" in refusal.value.remedy


BROKEN: list[dict[str, Any]] = [
    {"runs": "2"}, {"classes": 3}, {"classes": [1, 2, 3]}, {"bound": "magic"}, {"family": "each"}, {"threat": None},
    {"point_names": ["a"]}, {"raw": {}}, {"raw": {"images": 1, "listed": 1, "quarantined": 0}}, {"exploratory": "no"},
    {"format": 0}, {"tau": None},
]  # fmt: skip


@pytest.mark.parametrize("change", BROKEN, ids=str)
def test_terms_that_cannot_be_computed_with_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    text = json.dumps({**terms(2, 3), **change})
    with pytest.raises(InputError, match="incomplete or damaged"):
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": text})))
    for text in ("{", "[]", "null", "[" * 10**5):
        with pytest.raises(InputError):
            read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": text})))


def test_a_job_is_its_terms_and_anytime_leaves_the_number_of_runs_open() -> None:
    fixed, other = terms(10, 3), terms(11, 3)
    assert job_id(fixed) != job_id(other) and job_id(fixed) == job_id(dict(reversed(fixed.items())))
    assert job_id({**fixed, "bound": "anytime"}) == job_id({**other, "bound": "anytime"})
    assert job_id({**fixed, "alpha": "0.0010"}) != job_id(fixed)


def test_a_record_binds_votes_to_run_and_job() -> None:
    job, row = "ab" * 32, TABLE[0]
    same = record(job, 1, row)
    assert len(same) == 32 and same == record(job, 1, row.astype(">i4").astype(np.int32))
    assert same not in (record("ac" * 32, 1, row), record(job, 2, row), record(job, 1, TABLE[1]))


@given(st.data())
def test_a_tally_is_what_counting_by_hand_gives(data: st.DataObject) -> None:
    runs, points, classes = (data.draw(st.integers(low, 8)) for low in (2, 1, 2))
    table = data.draw(st.lists(st.lists(st.integers(-1, classes - 1), min_size=points, max_size=points),
                               min_size=runs, max_size=runs))  # fmt: skip
    labels = data.draw(st.lists(st.integers(-1, classes - 1), min_size=points, max_size=points))
    selecting = data.draw(st.integers(0, runs - 1))
    bound = "cohen" if selecting else "union"
    names = [str(number) for number in range(classes)]
    found = tally(ballot(table, labels, bound=bound, selection_runs=selecting, classes=names))
    for point in range(points):
        column = [row[point] for row in table]
        selection, estimation = (column[:selecting], column[selecting:]) if selecting else (column, column)
        best = min(range(classes), key=lambda label: (-selection.count(label), label))
        if selection.count(best) == 0:
            assert (found.winner[point], found.k_a[point]) == (-1, 0)
            assert found.k_b[point] == max(estimation.count(label) for label in range(classes))
            continue
        others = [estimation.count(label) for label in range(classes) if label != best]
        assert (found.winner[point], found.k_a[point], found.k_b[point]) == (best, estimation.count(best), max(others))
    for label in range(classes):
        right = sum(row[p] == label == labels[p] for row in table for p in range(points))
        assert found.correct[label] == right
        assert found.voted[label] == sum(row[p] == label and labels[p] >= 0 for row in table for p in range(points))


def test_many_points_are_counted_in_blocks() -> None:
    runs = 2000  # 4 million cells hold some 2,000 points
    rng = np.random.default_rng(0)
    table = rng.integers(-1, 3, (runs, 5000), np.int32)
    labels = rng.integers(-1, 3, 5000)
    found = tally(Votes(table, labels, None, terms(runs, 5000)))
    counts = np.stack([(table == label).sum(axis=0) for label in range(3)])
    assert (found.winner == counts.argmax(axis=0)).all() and (found.k_a == counts.max(axis=0)).all()
    assert (found.k_b == np.sort(counts, axis=0)[1]).all()
    assert found.correct.tolist() == [int(counts[label, labels == label].sum()) for label in range(3)]
    assert found.voted.tolist() == counts[:, labels >= 0].sum(axis=1).tolist()


def test_runs_without_a_vote_count_for_no_class() -> None:
    found = tally(counted({1: 60, 0: 10}, {}, runs=100))
    assert found.k_a.tolist() == [60, 0] and found.k_b.tolist() == [10, 0] and found.winner.tolist() == [1, -1]
