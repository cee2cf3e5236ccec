"""Files of features: what is read, what is refused in one sentence, and rows that nothing beside them changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpclean.data.features import MOST_DIMENSIONS, UNIT, read_features, unit_rows
from dpclean.errors import InputError

DRAW = np.random.default_rng(3)


def write(path: Path, features: Any, labels: Any = None, **metadata: object) -> Path:
    tensors = {"features": np.asarray(features)} | ({} if labels is None else {"labels": np.asarray(labels)})
    save_file(tensors, path, {name: json.dumps(value) for name, value in metadata.items()})
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_become_multiples_of_the_unit_of_length_one(tmp_path: Path, dtype: type) -> None:
    values = DRAW.standard_normal((5, 40)).astype(dtype)
    values[3] = 0
    found = read_features(write(tmp_path / "f", values, [0, 1, 1, 0, 1]))
    assert found.rows.dtype == np.float32 and (found.rows == np.rint(found.rows / UNIT) * UNIT).all()
    assert np.allclose(np.linalg.norm(found.rows, axis=1), [1, 1, 1, 0, 1], atol=1e-3)
    cosine = (values[0].astype(float) / np.linalg.norm(values[0].astype(float))) @ found.rows[0]
    assert cosine == pytest.approx(1, abs=1e-3)
    assert (found.names, found.named, found.classes) == (list("01234"), False, ("0", "1"))


def test_a_row_is_the_same_at_every_place_and_whatever_is_beside_it() -> None:
    values = DRAW.standard_normal((300, 1280)) * np.exp(DRAW.uniform(-600, 600, (300, 1)))
    rows = unit_rows(values)
    assert np.isfinite(rows).all() and (np.linalg.norm(rows, axis=1) > 0.99).all()
    order = DRAW.permutation(300)
    assert (unit_rows(values[order]) == rows[order]).all()
    assert all((unit_rows(values[i : i + 1])[0] == rows[i]).all() for i in range(0, 300, 37))


def test_a_row_that_is_not_finite_is_left_out_and_moves_nobody(tmp_path: Path) -> None:
    values = DRAW.standard_normal((4, 3)).astype(np.float32)
    whole = read_features(write(tmp_path / "whole", values, [0, 1, 0, 1]))
    values[1, 2] = np.nan
    found = read_features(write(tmp_path / "f", values, [0, 1, 0, 1], names=["a", "b", "c", "d"]))
    assert (found.names, found.indices.tolist(), found.listed) == (["a", "c", "d"], [0, 2, 3], 4)
    assert found.quarantined == {"not-finite": 1} and found.named
    assert (found.rows == whole.rows[[0, 2, 3]]).all() and found.hashes == [whole.hashes[i] for i in (0, 2, 3)]


def test_a_row_that_is_left_out_names_no_class(tmp_path: Path) -> None:
    values = DRAW.standard_normal((4, 3)).astype(np.float32)
    values[1] = np.inf
    found = read_features(write(tmp_path / "f", values, [7, 3, 9, 7]))
    assert (found.classes, found.labels.tolist(), found.source_labels.tolist()) == (("7", "9"), [0, 1, 0], [7, 9, 7])


def test_the_digest_names_values_type_labels_names_and_places(tmp_path: Path) -> None:
    values = DRAW.standard_normal((3, 2)).astype(np.float32)
    digests = {
        read_features(write(tmp_path / "f", *given, **names)).digest()  # type: ignore[arg-type]
        for given, names in (
            ((values, [0, 1, 0]), {}),
            ((values, [0, 1, 1]), {}),
            ((values.astype(np.float64), [0, 1, 0]), {}),
            ((values[::-1].copy(), [0, 1, 0]), {}),
            ((values, [0, 1, 0]), {"names": ["x", "y", "z"]}),
        )
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("features", "labels", "metadata", "said"),
    [
        (np.zeros((2, 3), np.int32), [0, 1], {}, "float16, float32 or float64"),
        (np.zeros((2, 3, 1), np.float32), [0, 1], {}, "float16, float32 or float64"),
        (np.zeros((0, 3), np.float32), np.zeros(0, np.int64), {}, "which is empty"),
        (np.zeros((1, MOST_DIMENSIONS + 1), np.float16), [0], {}, "rows of more than"),
        (np.ones((2, 3), np.float32), [0, 1, 1], {}, "one for each row"),
        (np.ones((2, 3), np.float32), np.ones(2, np.float32), {}, "one for each row"),
        (np.ones((2, 3), np.float32), [0, 2], {"class_names": ["a", "b"]}, "the label 2 in row 1"),
        (np.ones((2, 3), np.float32), [-2, 0], {}, "the label -2 in row 0"),
        (np.ones((2, 3), np.float32), np.array([0, 2**64 - 1], np.uint64), {}, "the label 18446744073709551615"),
        (np.ones((2, 3), np.float32), [0, 1], {"names": ["a"]}, "1 names for 2 rows"),
        (np.ones((2, 3), np.float32), [0, 1], {"names": {"a": 1}}, "names that are no list"),
        (np.full((2, 3), np.inf, np.float32), [0, 1], {}, "finite values only"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, features: Any, labels: Any, metadata: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_features(write(tmp_path / "f", features, labels, **metadata))


def test_what_is_no_file_of_features(tmp_path: Path) -> None:
    save_file({"images": np.zeros((1, 1, 1, 3), np.uint8)}, tmp_path / "shard")
    (tmp_path / "short").write_bytes(b"12")
    for name, said in (
        ("missing", "No such file"),
        ("shard", "no tensor 'features'"),
        ("short", "too short"),
        ("", "folder"),
    ):
        with pytest.raises(InputError, match=said):
            read_features(tmp_path / name)
