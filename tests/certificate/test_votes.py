"""The votes file: read back as it was written, refused with a sentence where it is anything else; and counting."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from safetensors.numpy import save

from dpclean.certificate.parameters import as_json, from_json
from dpclean.certificate.votes import (
    InconsistentError,
    Votes,
    count_votes,
    has_parameters,
    job_id,
    read_plain_votes,
    read_votes,
    record,
    votes_bytes,
)
from dpclean.errors import ConflictError, InputError
from tests.certificate.ballots import ballot, counted, parameters, recorded, terms

TABLE = np.array([[0, 1, -1], [2, 1, 0]], np.int32)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "votes.safetensors"
    path.write_bytes(data)
    return path


def test_votes_come_back_as_they_were_written(tmp_path: Path) -> None:
    votes = ballot(TABLE, labels=[0, -1, 2], point_names=["a\tb", "\udc80", "ß"])
    path = written(tmp_path, votes_bytes(votes))
    back = read_votes(path)
    assert (back.votes == TABLE).all() and back.parameters == votes.parameters and has_parameters(path)
    assert back.labels is not None and back.labels.tolist() == [0, -1, 2]
    assert back.records is not None and votes.records is not None and (back.records == votes.records).all()
    assert votes_bytes(back) == votes_bytes(votes)


def test_votes_from_elsewhere_need_neither_labels_nor_terms(tmp_path: Path) -> None:
    path = written(tmp_path, save({"votes": TABLE}))
    votes, labels = read_plain_votes(path, 3)
    assert not has_parameters(path) and (votes == TABLE).all() and labels is None


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
@pytest.mark.parametrize("reader", [has_parameters, read_votes, lambda path: read_plain_votes(path, 3)])
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
    path = written(tmp_path, votes_bytes(Votes(table, None, records, votes.parameters)))
    with pytest.raises(InputError, match=f"{runs} runs on 3 points, its terms announce 2 on 3"):
        read_votes(path)


@pytest.mark.parametrize("number", [2, 4])
def test_another_format_is_told_apart_from_damage(tmp_path: Path, number: int) -> None:
    other = {**terms(2, 3), "format": number, "tool": "dpclean 9.0"}
    with pytest.raises(ConflictError) as refusal:
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": json.dumps(other)})))
    assert "dpclean 9.0" in refusal.value.remedy


def denoiser(**changed: Any) -> dict[str, Any]:
    return {"denoiser": {**terms(2, 3)["denoiser"], **changed}}


def raw(**changed: Any) -> dict[str, Any]:
    return {"raw": {**terms(2, 3)["raw"], **changed}}


BROKEN: list[dict[str, Any]] = [
    {"runs": "2"}, {"runs": True}, {"runs": -2}, {"runs": 10**30}, {"runs": 2.0}, {"points": 4}, {"selection_runs": 1},
    {"classes": 3}, {"classes": [1, 2, 3]}, {"classes": ["a"]}, {"bound": "magic"}, {"family": "each"},
    {"threat": None}, {"point_names": ["a"]}, {"exploratory": "no"}, {"exploratory": 0}, {"format": 0},
    {"format": True}, {"format": 2.0}, {"tool": ""}, {"tool": "golden"}, {"origin": "heaven"}, {"origin": "external"},
    {"sigma": "00.25"}, {"sigma": "0__0.25"}, {"sigma": "0.250"}, {"sigma": ".25"}, {"sigma": "1e-1"}, {"sigma": 0.25},
    {"sigma": "-0.25"}, {"sigma": "1000"}, {"sigma": "9" * 5000}, {"sigma": "\u0660.\u0661"}, {"alpha": "0.0010"},
    {"alpha": "NaN"}, {"tau": None}, {"tau": "0"}, {"tau1": "0"}, {"tau": "0.1"}, {"values": None}, {"values": 0},
    {"values": 99}, {"values": 3072 * 100 + 1}, {"seed": -1}, {"seed": 7}, {"attempt": 0}, {"attempt": None},
    {"point_source": "moon"}, {"points_digest": "AB" * 32}, {"points_digest": "ab" * 31}, {"points_in_training": 4},
    {"points_in_training": -1}, {"raw": None}, {"raw": {}}, raw(quarantined=0), raw(quarantined={"empty": -2}),
    raw(quarantined={"lost": 2}), raw(images=-100), raw(images=2), raw(images=10**4), raw(listed=99), raw(kind="tape"),
    raw(more=1), raw(pixel_digest="x"), {"inputs_digest": None}, {"key_commitment": ""}, {"order": []},
    {"order": ["key drawn", "digest of the data fixed"]}, {"denoiser": None}, denoiser(digests={"weights": "12"}),
    denoiser(ancestry="yes"),
    denoiser(ancestry={"images": 1, "gaps": [], "points": 4}),
    denoiser(id=""), {"recipe": None}, {"recipe": {"lr": [[1]]}}, {"size": None},
    {"recipe": {"name": "tiny", "size": 24}}, {"trainer": "python x.py"}, {"init": {}}, {"run_timeout": 5.0},
    {"decode": None}, {"engine": None}, {"engine": {"versions": {"torch": [2]}}}, {"keep_models": None},
    {"seal": "gold"},
]  # fmt: skip


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: str(change)[:60])
def test_terms_of_another_form_or_that_do_not_follow_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    changed = terms(2, 3)
    changed.update(change)
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    with pytest.raises(InconsistentError):
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": text})))


@pytest.mark.parametrize("name", terms(2, 3))
def test_every_term_must_be_there(tmp_path: Path, name: str) -> None:
    changed = {key: value for key, value in terms(2, 3).items() if key != name}
    with pytest.raises(InconsistentError):
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": json.dumps(changed)})))


@pytest.mark.parametrize("depth", [*range(940, 1000), 10**5])
def test_terms_that_can_hardly_be_shown_are_refused(tmp_path: Path, depth: int) -> None:
    """Nested as deep as JSON can just be read."""
    text = json.dumps({**terms(2, 3), "raw": "here"}).replace('"here"', "[" * depth + "]" * depth)
    with pytest.raises(InputError):
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": text})))


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 10**5, "1" * 5000, '"' * 3])
def test_terms_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        read_votes(written(tmp_path, save({"votes": TABLE}, {"dpclean": text})))


def respelled(change: Callable[[str], str], **tensors: Any) -> bytes:
    """Honest votes with their terms spelled in another way, or with more in the file."""
    votes = ballot(TABLE)
    assert votes.records is not None
    text = json.dumps(as_json(votes.parameters), sort_keys=True, separators=(",", ":"))
    return save({"votes": votes.votes, "records": votes.records, **tensors}, {"dpclean": change(text)})


@pytest.mark.parametrize(
    "data",
    [
        respelled(lambda text: text + " "),
        respelled(lambda text: '{"alpha":"0.5",' + text[1:]),  # the last of two is taken
        respelled(lambda text: text.replace("dpclean 0", "dpclean \\u0030")),
        respelled(lambda text: text.replace(":0.24", ":0.240")),
        respelled(str, seal=np.zeros(1, np.uint8)),
        respelled(str, models=np.zeros((2, 32), np.uint8)),
        respelled(str) + b"\x00",
    ],
)
def test_what_is_spelled_in_another_way_is_refused(tmp_path: Path, data: bytes) -> None:
    assert read_votes(written(tmp_path, respelled(str))).parameters.runs == 2
    with pytest.raises(InputError):
        read_votes(written(tmp_path, data))


def test_votes_without_the_records_of_their_runs_are_refused(tmp_path: Path) -> None:
    votes = ballot(TABLE)
    with pytest.raises(InconsistentError, match="no records"):
        read_votes(written(tmp_path, votes_bytes(replace(votes, records=None))))


def test_models_are_bound_to_their_runs(tmp_path: Path) -> None:
    """A digest for each run with votes and none for one that failed, all under the records."""
    table = np.array([[0, 1, -1], [-1, -1, -1]], np.int32)
    models = np.stack([np.full(32, 7, np.uint8), np.zeros(32, np.uint8)])
    plain = ballot(table, keep_models=True)
    votes = recorded(replace(plain, models=models))
    back = read_votes(written(tmp_path, votes_bytes(votes)))
    assert back.models is not None and (back.models == models).all()
    for wrong in (models[::-1], np.zeros_like(models), np.full_like(models, 7)):
        with pytest.raises(InconsistentError, match="model"):
            read_votes(written(tmp_path, votes_bytes(recorded(replace(plain, models=np.ascontiguousarray(wrong))))))
    other = models.copy()
    other[0, 5] = 8
    with pytest.raises(InconsistentError, match="run 1"):
        read_votes(written(tmp_path, votes_bytes(replace(votes, models=other))))
    with pytest.raises(InconsistentError, match="no models"):
        read_votes(written(tmp_path, votes_bytes(plain)))


def test_a_job_is_its_terms_and_anytime_leaves_the_number_of_runs_open() -> None:
    fixed, other = parameters(10, 3), parameters(11, 3)
    assert job_id(fixed) != job_id(other) and job_id(fixed) == job_id(from_json(as_json(fixed)))
    assert job_id(structs.replace(fixed, bound="anytime")) == job_id(structs.replace(other, bound="anytime"))
    assert job_id(structs.replace(fixed, alpha="0.01")) != job_id(fixed)


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
    found = count_votes(ballot(table, labels, bound=bound, selection_runs=selecting, classes=names))
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
    found = count_votes(Votes(table, labels, None, parameters(runs, 5000)))
    counts = np.stack([(table == label).sum(axis=0) for label in range(3)])
    assert (found.winner == counts.argmax(axis=0)).all() and (found.k_a == counts.max(axis=0)).all()
    assert (found.k_b == np.sort(counts, axis=0)[1]).all()
    assert found.correct.tolist() == [int(counts[label, labels == label].sum()) for label in range(3)]
    assert found.voted.tolist() == counts[:, labels >= 0].sum(axis=1).tolist()


def test_counting_takes_no_more_for_many_classes() -> None:
    classes = 100_000
    table = np.arange(30, dtype=np.int32)[:, None] % 7 * (classes // 7) + np.arange(60, dtype=np.int32)
    names = [f"class-{number}" for number in range(classes)]
    votes = Votes(table, np.full(60, 5, np.int64), None, parameters(30, 60, classes=names))
    tracemalloc.start()
    try:
        found = count_votes(votes)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.winner.tolist() == list(range(60)) and (found.k_a == 5).all() and (found.k_b == 5).all()
    assert found.correct.sum() == 5 and found.voted.sum() == 30 * 60
    assert taken < 10 * 8 * classes  # a few numbers a class, not one for each point and class


def test_runs_without_a_vote_count_for_no_class() -> None:
    found = count_votes(counted({1: 60, 0: 10}, {}, runs=100))
    assert found.k_a.tolist() == [60, 0] and found.k_b.tolist() == [10, 0] and found.winner.tolist() == [1, -1]
