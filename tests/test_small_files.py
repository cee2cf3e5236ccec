"""A pipe or a device in the place of a file is refused at once; so is a file beyond the limit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpclean.certificate import files, verify, votes
from dpclean.data import ancestry, manifest
from dpclean.errors import ConflictError, DpcleanError, InputError
from dpclean.jobs import key_file
from dpclean.small_files import check_regular_file, read_small_file
from dpclean.train import model

READERS: list[tuple[Callable[[Path], object], str, type[DpcleanError]]] = [
    (key_file.read_key, "key", ConflictError),
    (lambda path: manifest.read(path.parent), manifest.NAME, InputError),
    (lambda path: model.read_description(path.parent), model.NAME, InputError),
    (model.read_weights, "model.safetensors", InputError),
    (ancestry.read_ancestry, "ancestry", InputError),
    (files.read, "certificate.json", InputError),
    (votes.read_votes, "votes.safetensors", InputError),
    (lambda path: votes.read_plain_votes(path, 10), "votes.safetensors", InputError),
    (lambda path: verify.verify(path.parent), "votes.safetensors", InputError),
]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize(("read", "name", "error"), READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(
    read: Callable[[Path], object], name: str, error: type[DpcleanError], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir(mode=0o700)
    with pytest.raises(error) as refusal:
        read(path)
    assert name in refusal.value.message


def test_a_file_is_read_whole_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    assert read_small_file(path, 1 << 20) == b"x" * (1 << 20)
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_small_file(path, (1 << 20) - 1)
    check_regular_file(path)


@pytest.mark.parametrize("read", [read_small_file, check_regular_file])
def test_a_name_that_no_file_can_have_is_missing(read: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        read(Path("a\0b"))


def test_what_the_kernel_makes_up_is_a_file_too() -> None:
    assert b"\n" in read_small_file(Path("/proc/self/limits"))  # of size 0, as stat tells


def test_readers_still_read(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps({"format": files.FORMAT}))
    assert files.read(path) == {"format": files.FORMAT}
