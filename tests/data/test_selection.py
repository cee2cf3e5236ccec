"""A sample of a listing: every class in its share, by places alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpclean.data.records import DataOptions
from dpclean.data.selection import selected, shares
from dpclean.data.sources import Source, open_source
from dpclean.errors import InputError, UsageError
from tests.data.pictures import write


def folder(root: Path, **sizes: int) -> Source:
    for name, size in sizes.items():
        for number in range(size):
            write(root / name / f"{number:03d}.png", b"")
    return open_source(root, DataOptions())


def names(source: Source, sample: int) -> list[str]:
    return [entry.name for entry in selected(source, sample=sample)]


def test_the_places_are_even_and_known_beforehand(tmp_path: Path) -> None:
    source = folder(tmp_path, a=10, b=5)
    places = {"a": (1, 3, 6, 8), "b": (1, 3)}  # floor((2 i + 1) 10 / 8), floor((2 i + 1) 5 / 4)
    assert names(source, 6) == [f"{name}/{place:03d}.png" for name in places for place in places[name]]
    chosen = list(selected(source, sample=6))
    assert [entry.index for entry in chosen] == list(range(6)) and [e.label for e in chosen] == [0] * 4 + [1] * 2
    assert names(source, 15) == names(source, 1000) == [entry.name for entry in selected(source)]


def test_what_is_in_a_file_moves_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path, a=9, b=4, c=1)
    before = names(source, 5)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(path.name.encode() * 99)
    assert names(source, 5) == before


@pytest.mark.parametrize(
    ("sizes", "sample", "wanted"),
    [
        ({0: 10, 1: 5}, 6, {0: 4, 1: 2}),
        ({0: 5, 1: 5, 2: 5}, 4, {0: 2, 1: 1, 2: 1}),  # the lowest label where remainders are equal
        ({0: 500, 1: 300, 2: 200}, 7, {0: 4, 1: 2, 2: 1}),  # 3.5, 2.1, 1.4
        ({0: 980, 1: 10, 2: 10}, 10, {0: 8, 1: 1, 2: 1}),  # one of each, the others share the rest
        ({0: 1, 1: 15, 2: 84}, 6, {0: 1, 1: 1, 2: 4}),  # of the five that are left, 0.76 and 4.24
        ({0: 90, 1: 5, 2: 5}, 2, {0: 2, 1: 0, 2: 0}),  # too few for one of each
        ({-1: 1, 0: 999, 1: 1000}, 20, {-1: 0, 0: 10, 1: 10}),  # a stray file is no class
        ({-1: 1000, 0: 2, 1: 2}, 10, {-1: 8, 0: 1, 1: 1}),
        ({-1: 7}, 3, {-1: 3}),
        ({0: 3, 1: 1}, 9, {0: 3, 1: 1}),
    ],
)
def test_shares(sizes: dict[int, int], sample: int, wanted: dict[int, int]) -> None:
    assert shares(sizes, sample) == wanted


def test_shares_are_within_one_of_exact_and_no_class_is_lost() -> None:
    draw = np.random.default_rng(1)
    for _ in range(300):
        sizes = {label: int(size) for label, size in enumerate(draw.integers(1, 300, int(draw.integers(1, 12))))}
        total = sum(sizes.values())
        sample = int(draw.integers(1, total + 1))
        found = shares(sizes, sample)
        assert sum(found.values()) == sample and all(0 <= found[label] <= sizes[label] for label in sizes)
        if sample >= len(sizes):
            assert min(found.values()) >= 1
        if all(sample * size >= total for size in sizes.values()):  # where none is below one
            assert all(abs(found[label] * total - sample * sizes[label]) < total for label in sizes)


def test_every_split_keeps_about_its_share(tmp_path: Path) -> None:
    folder(tmp_path / "test", a=20, b=10)
    folder(tmp_path / "train", a=80, b=40)
    counts = Counter(tuple(name.split("/")[:2]) for name in names(open_source(tmp_path, DataOptions()), 30))
    assert counts == {("test", "a"): 4, ("test", "b"): 2, ("train", "a"): 16, ("train", "b"): 8}


def test_a_folder_that_changes_while_it_is_listed_is_refused(tmp_path: Path) -> None:
    chosen = selected(folder(tmp_path, a=6, b=6), sample=4)
    next(chosen)
    write(tmp_path / "b" / "more.png", b"")
    with pytest.raises(InputError, match="changed while it was listed"):
        list(chosen)


def test_shards_are_refused(tmp_path: Path) -> None:
    save_file({"images": np.zeros((4, 8, 8, 3), np.uint8)}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="--sample is for folders"):
        list(selected(open_source(tmp_path, DataOptions()), sample=2))
