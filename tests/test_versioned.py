"""What says its format is refused by number where another dpclean made it, and as damaged where nothing did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from dpclean.certificate import files
from dpclean.certificate.votes import read_votes
from dpclean.data import manifest
from dpclean.data.ancestry import MAGIC, read_ancestry
from dpclean.errors import ConflictError, InputError
from dpclean.jobs.record import FIELDS, read_record
from dpclean.train.model import NAME, read_description
from dpclean.versioned import decoded, encoded


def _votes(path: Path, fields: Any) -> Any:
    path.write_bytes(save({"votes": np.zeros((1, 1), np.int32)}, {"dpclean": json.dumps(fields)}))
    return read_votes(path)


def _json(read: Callable[[Path], Any]) -> Callable[[Path, Any], Any]:
    def written(path: Path, fields: Any) -> Any:
        path.write_text(json.dumps(fields))
        return read(path)

    return written


def _inside(name: str, read: Callable[[Path], Any]) -> Callable[[Path, Any], Any]:
    return lambda path, fields: _json(lambda file: read(file.parent))(path.parent / name, fields)


def _ancestry(path: Path, fields: Any) -> Any:
    body = MAGIC + json.dumps(fields).encode() + b"\n"
    path.write_bytes(body + hashlib.sha256(body).digest())
    return read_ancestry(path)


READERS = {
    "manifest": _inside(manifest.NAME, manifest.read),
    "model": _inside(NAME, read_description),
    "ancestry": _ancestry,
    "votes": _votes,
    "certificate": _json(files.read),
    "record": _json(read_record),
}


@pytest.mark.parametrize("kind", READERS)
def test_another_format_is_named_with_the_way_out(kind: str, tmp_path: Path) -> None:
    rest = {name: form() for name, form in FIELDS.items()} if kind == "record" else {}
    with pytest.raises(ConflictError, match="has format 9, this dpclean reads ") as refused:
        READERS[kind](tmp_path / "file", {"format": 9, "tool": "dpclean 77.0", **rest})
    assert ("77.0 or newer" in refused.value.remedy) != (kind == "record")
    for none in ("9", True, None, 9.0, -9):
        with pytest.raises(InputError):
            READERS[kind](tmp_path / "file", {"format": none, **rest})
    with pytest.raises(InputError):
        READERS[kind](tmp_path / "file", [9])


@pytest.mark.parametrize("kind", ["votes", "certificate"])
def test_an_older_format_is_no_newer_one(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="has format 1, this dpclean reads format 3") as refused:
        READERS[kind](tmp_path / "file", {"format": 1, "tool": "dpclean 0.1"})
    assert refused.value.remedy == "use dpclean 0.1, or make it again"


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none_are_refused(number: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        decoded(f'{{"sigma": {number}}}'.encode())
    (tmp_path / manifest.NAME).write_text(f'{{"format": 1, "sigma": {number}}}')
    with pytest.raises(InputError):
        manifest.read(tmp_path)


def test_names_that_are_no_utf_8_are_kept() -> None:
    told = {"name": "a\udcff", "numbers": [1.5, 2]}
    assert decoded(encoded(told)) == told and encoded(told).isascii()
    for other in ("utf-16", "utf-8-sig"):
        with pytest.raises(ValueError):
            decoded("{}".encode(other))


def test_a_stranger_does_not_write_what_a_terminal_obeys(tmp_path: Path) -> None:
    with pytest.raises(ConflictError) as refused:
        READERS["manifest"](tmp_path / "file", {"format": 9, "tool": "\x1b[2J" + "x" * 10**5})
    assert "\x1b" not in refused.value.remedy and len(refused.value.remedy) < 200
    with pytest.raises(ConflictError):
        READERS["certificate"](tmp_path / "file", {"format": 10**4000})
