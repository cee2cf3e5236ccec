"""Names are bytes: a locale without their letters changes nothing, and what cannot be text is refused early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import dpclean
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.errors import InputError
from dpclean.pipeline.quarantine import list_quarantined
from tests.networks import make_transparent

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # names beyond ASCII have no letters there


def save(path: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(np.full((8, 8, 3), len(path), np.uint8)).save(file, "png")


def test_a_locale_without_the_letters_of_the_names_changes_no_byte(tmp_path: Path) -> None:
    denoiser, root = make_transparent(tmp_path / "denoiser"), os.fsencode(tmp_path) + "/rå".encode()
    names = [b"a/x.png", "a/é.png".encode(), b"a/\xff.png", "ü/ß.png".encode(), "ü/bad ñ.png".encode()]
    for name in names[:-1]:
        save(root + b"/" + name)
    with open(root + b"/" + names[-1], "wb"):
        pass

    def sanitize(out: str, **environment: str) -> str:
        arguments = [
            os.fsdecode(root),
            "--sigma",
            "0.25",
            "--seed",
            "1",
            "--denoiser",
            str(denoiser),
            "--dtype",
            "fp32",
        ]
        command = [
            sys.executable,
            "-m",
            "dpclean",
            "sanitize",
            *arguments,
            "--workers",
            "1",
            "--out",
            str(tmp_path / out),
        ]
        done = subprocess.run(command, capture_output=True, env=os.environ | environment)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="surrogateescape")

    sanitize("plain", **PLAIN)
    sanitize("whole", PYTHONUTF8="1")
    sums = [(tmp_path / out / "SHA256SUMS").read_bytes().splitlines() for out in ("plain", "whole")]
    kept = [[line for line in lines if not line.endswith(b"  dpclean.json")] for lines in sums]
    assert kept[0] == kept[1] and any(line.endswith(b"  a/\xff.png") for line in kept[0])
    assert list_quarantined(tmp_path / "plain") == [("ü/bad ñ.png", "empty")]
    assert "already complete" in sanitize("whole", **PLAIN)


def test_a_class_that_is_no_text_is_refused_before_the_work(tmp_path: Path) -> None:
    save(os.fsencode(tmp_path) + b"/raw/a/x.png")
    save(os.fsencode(tmp_path) + b"/raw/\xff/x.png")
    with pytest.raises(InputError, match="no UTF-8"):
        dpclean.sanitize(tmp_path / "raw", tmp_path / "out", sigma=0.25)
    assert sorted(os.listdir(tmp_path)) == ["raw"]


def test_class_names_of_shards_that_are_no_text_make_a_bad_shard(tmp_path: Path) -> None:
    rows = np.zeros((2, 2, 2, 3), np.uint8)
    for name, classes in (("a", '["x", "y"]'), ("b", '["x", "\\udc80"]')):
        save_file(
            {"images": rows, "labels": np.array([0, 1])}, tmp_path / f"{name}.safetensors", {"class_names": classes}
        )
    source = open_source(tmp_path, DataOptions())
    assert source.classes == ("x", "y")
    assert source.remarks() == ["b.safetensors has class_names that are no UTF-8"]
