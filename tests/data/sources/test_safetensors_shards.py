"""Shards in and out: what a header may say, layouts, labels, carried tensors, interruption."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions, Entry, Sample
from dpclean.data.shard_header import MAX_HEADER_BYTES
from dpclean.data.sinks.sink import Sink
from dpclean.data.sources import open_source
from dpclean.data.sources import safetensors_shards as shards_module
from dpclean.data.sources.safetensors_shards import ShardSource
from dpclean.errors import ConflictError, InputError, Reason
from tests.data.pictures import noise, read_all

OPTIONS = DataOptions()
IMAGES = np.stack([noise(4, 5, seed=seed) for seed in range(6)])


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1, OPTIONS) as pool:
        yield pool


def shard(path: Path, header: Any, data: bytes = b"") -> None:
    """A file with this header: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor(shape: list[Any], begin: Any, end: Any, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def problem(raw: Path, options: DataOptions = OPTIONS) -> str:
    """What is said of the only shard."""
    with pytest.raises(InputError) as caught:
        open_source(raw, options)
    assert "\n" not in caught.value.message
    return caught.value.message


def shard_source(raw: Path, options: DataOptions = OPTIONS) -> ShardSource:
    source = open_source(raw, options)
    assert isinstance(source, ShardSource)
    return source


# --- headers ----------------------------------------------------------------------------------------------------------

GOOD = {"images": tensor([1, 2, 2, 3], 0, 12)}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"", b"", "no JSON object"),
        (b"[]", b"", "no JSON object"),
        (b'{"images":', b"", "no JSON"),
        (b'{"a": NaN}', b"", "no JSON"),
        (b'{"\xff": 1}', b"", "no JSON"),
        (b"{" + b'"a":{' * 100_000, b"", "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "no JSON"),
        (b'{"images": 1, "images": 2}', b"", "a name twice"),
        (b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1", "a name twice"),
        ({"__metadata__": {"a": 1}}, b"", "metadata that are no strings"),
        ({"images": {"dtype": "U8"}}, b"", "other words"),
        ({"images": tensor([1], 0, 1) | {"more": 1}}, b"1", "other words"),
        ({"images": tensor([1], 0, 1, "U9")}, b"1", "unknown dtype 'U9'"),
        ({"images": tensor([-1], 0, 1)}, b"1", "a shape that is none"),
        ({"images": tensor([True], 0, 1)}, b"1", "a shape that is none"),
        ({"images": tensor([1.0], 0, 1)}, b"1", "a shape that is none"),
        ({"images": tensor([1] * 17, 0, 1)}, b"1", "a shape that is none"),
        ({"images": tensor([1 << 63], 0, 1)}, b"1", "a shape that is none"),
        ({"images": tensor([0], 1, 0)}, b"1", "offsets that are none"),
        ({"images": tensor([1], -1, 0)}, b"1", "offsets that are none"),
        ({"images": tensor([1], 0, 1 << 63)}, b"1", "offsets that are none"),
        ({"images": tensor([3], 0, 2)}, b"12", "does not fit its offsets"),
        ({"images": tensor([1 << 62] * 16, 0, 2)}, b"12", "does not fit its offsets"),
        ({"a": tensor([2], 0, 2), "b": tensor([2], 1, 3)}, b"123", "overlap or leave a gap"),
        ({"a": tensor([1], 0, 1), "b": tensor([1], 2, 3)}, b"123", "overlap or leave a gap"),
        ({"a": tensor([1], 1, 2)}, b"12", "overlap or leave a gap"),
        (GOOD, bytes(11), "past the end"),
        (GOOD, bytes(13), "bytes after its last tensor"),
    ],
)  # fmt: skip
def test_bad_headers(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    shard(tmp_path / "a.safetensors", header, data)
    assert said in problem(tmp_path)


def test_header_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content, said in (
        (b"\1\0", "too short"),
        (struct.pack("<Q", 1 << 63), "more than"),
        (struct.pack("<Q", 100) + b"{}", "more than the file"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" + b" " * (MAX_HEADER_BYTES + 1), "more than"),
    ):
        path.write_bytes(content)
        assert said in problem(tmp_path)


def test_a_good_header(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", json.dumps(GOOD).encode() + b"   ", bytes(12))
    assert len(list(open_source(tmp_path, OPTIONS).entries())) == 1


# --- images, layouts, labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"pictures": IMAGES}, "no tensor 'images'"),
        ({"images": IMAGES.astype(np.float16)}, "F16 [6, 4, 5, 3]"),
        ({"images": IMAGES.astype(np.int64)}, "I64 [6, 4, 5, 3]"),
        ({"images": IMAGES[0]}, "U8 [4, 5, 3]; uint8 [N,H,W,C] or [N,C,H,W] is wanted"),
        ({"images": IMAGES[:, :, :, :2]}, "1 or 3 channels"),
        ({"images": np.zeros((2, 5, 5, 5), np.uint8)}, "1 or 3 channels"),
        ({"images": IMAGES[:0]}, "which is empty"),
        ({"images": IMAGES[:, :0]}, "which is empty"),
        ({"images": IMAGES[:, :3]}, "--layout"),
        ({"images": IMAGES, "labels": np.zeros(5, np.int64)}, "integers [6]"),
        ({"images": IMAGES, "labels": np.zeros((6, 1), np.int64)}, "integers [6]"),
        ({"images": IMAGES, "labels": np.zeros(6, np.float32)}, "integers [6]"),
        ({"images": IMAGES, "labels": np.array([0, 1, 2, -7, 3, 4])}, "negative label -7"),
        ({"images": IMAGES, "labels": np.full(6, 1 << 63, np.uint64)}, "does not fit"),
    ],
)
def test_tensors_that_cannot_be_used(tmp_path: Path, tensors: dict[str, NDArray[Any]], said: str) -> None:
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, tmp_path / "a.safetensors")
    assert said in problem(tmp_path)


def test_images_above_the_pixel_limit(tmp_path: Path) -> None:
    save_file({"images": IMAGES}, tmp_path / "a.safetensors")
    assert "more than 19 pixels" in problem(tmp_path, DataOptions(max_pixels=19))
    open_source(tmp_path, DataOptions(max_pixels=20))


@pytest.mark.parametrize("channels", [1, 3])
def test_both_layouts_give_the_same_pixels(tmp_path: Path, channels: int, pool: WorkerPool) -> None:
    images = IMAGES[:, :, :, :channels]
    for name, stored in (("nhwc", images), ("nchw", images.transpose(0, 3, 1, 2))):
        save_file({"images": np.ascontiguousarray(stored)}, tmp_path / f"{name}.safetensors")
        samples = read_all(open_source(tmp_path / f"{name}.safetensors", OPTIONS), pool)
        for sample, expected in zip(samples, images, strict=True):
            np.testing.assert_array_equal(sample.pixels, expected)
            assert sample.pixels is not None and sample.pixels.flags.c_contiguous and sample.format == "shard"


def test_an_ambiguous_layout_is_asked_for(tmp_path: Path, pool: WorkerPool) -> None:
    images = np.ascontiguousarray(IMAGES[:, :3])
    save_file({"images": images}, tmp_path / "a.safetensors")
    (first, *_) = read_all(open_source(tmp_path, DataOptions(layout="nhwc")), pool)
    np.testing.assert_array_equal(first.pixels, images[0])
    (first, *_) = read_all(open_source(tmp_path, DataOptions(layout="nchw")), pool)
    np.testing.assert_array_equal(first.pixels, images[0].transpose(1, 2, 0))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_labels_of_every_integer_type(tmp_path: Path, dtype: type) -> None:
    largest = min(np.iinfo(dtype).max, (1 << 63) - 1)
    save_file({"images": IMAGES, "labels": np.array([0, 1, 2, 3, 4, largest], dtype)}, tmp_path / "a.safetensors")
    assert [entry.label for entry in open_source(tmp_path, OPTIONS).entries()] == [0, 1, 2, 3, 4, largest]


def test_names_labels_and_order_over_shards(tmp_path: Path, pool: WorkerPool) -> None:
    other = np.stack([noise(7, 3, 1, seed=seed) for seed in range(2)])
    names = {"class_names": '["cat", "dog"]'}
    save_file({"images": other}, tmp_path / "b.safetensors")
    save_file({"images": IMAGES, "labels": np.array([0, 1] * 3)}, tmp_path / "a#.safetensors", metadata=names)
    (tmp_path / "readme.txt").touch()
    source = open_source(tmp_path, OPTIONS)
    assert source.kind == "shards" and source.classes == ("cat", "dog")
    entries = list(source.entries())
    assert entries[1] == Entry(1, "a#.safetensors#1", 1, "a#.safetensors", None)
    assert entries[6] == Entry(6, "b.safetensors#0", -1, "b.safetensors", None)
    for sample, expected in zip(read_all(source, pool), [*IMAGES, *other], strict=True):
        np.testing.assert_array_equal(sample.pixels, expected)


def test_class_names_must_agree(tmp_path: Path) -> None:
    def save(name: str, label: int, metadata: dict[str, str] | None) -> None:
        save_file({"images": IMAGES, "labels": np.full(6, label)}, tmp_path / f"{name}.safetensors", metadata=metadata)

    save("a", 1, None)
    save("b", 1, {"class_names": '["x", "y"]'})
    save("c", 1, {"class_names": '["y", "x"]'})
    save("d", 2, None)
    save("e", 0, {"class_names": '["x", "x"]'})
    save("f", 0, {"class_names": "[1]"})
    save("g", 0, {"class_names": "x"})
    source = shard_source(tmp_path)
    assert source.classes == ("x", "y")
    assert {name[0]: text for name, text in source.problems.items()} == {
        "c": "has other class_names than the shards that are read",
        "d": "has the label 2, but there are 2 class_names",
        "e": "has class_names that are no list of different strings",
        "f": "has class_names that are no list of different strings",
        "g": "has class_names that are no JSON",
    }


def test_colours_that_the_denoiser_does_not_take(tmp_path: Path) -> None:
    save_file({"images": IMAGES}, tmp_path / "a.safetensors")
    save_file({"images": IMAGES[..., :1].copy()}, tmp_path / "b.safetensors")
    source = open_source(tmp_path, DataOptions(channels=1))
    assert [entry.reason for entry in source.entries()] == [Reason.BAD_SHARD] + [None] * 6
    assert "of 3 channels, and the denoiser takes grey images only" in source.remarks()[0]


@pytest.mark.parametrize("named", [None, ["x", "y"]])
@pytest.mark.parametrize("strange", [["y", "x"], ["z"], ["x", "y", "z"], ["x"]])
def test_one_shard_does_not_drive_out_the_others(tmp_path: Path, named: list[str] | None, strange: list[str]) -> None:
    for name, names in (("a", strange), ("b", named), ("c", named)):
        metadata = None if names is None else {"class_names": json.dumps(names)}
        labels = np.arange(6) % (1 if name == "a" else 2)
        save_file({"images": IMAGES, "labels": labels}, tmp_path / f"{name}.safetensors", metadata=metadata)
    source = shard_source(tmp_path)
    assert set(source.problems) <= {"a.safetensors"}
    assert source.classes == tuple(named or (strange if len(strange) > 1 else ()))


def test_a_bad_shard_is_one_entry_and_the_others_stay(tmp_path: Path, pool: WorkerPool) -> None:
    for name in ("a", "c"):
        save_file({"images": IMAGES}, tmp_path / f"{name}.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"broken")
    os.mkfifo(tmp_path / "d.safetensors")
    samples = read_all(open_source(tmp_path, OPTIONS), pool)
    assert [sample.entry.index for sample in samples] == list(range(14))
    bad = Entry(6, "b.safetensors", -1, "b.safetensors", Reason.BAD_SHARD)
    assert samples[6] == Sample.left_out(bad, Reason.BAD_SHARD)
    assert samples[13].reason is Reason.NOT_REGULAR
    for sample, expected in zip(samples[7:13], IMAGES, strict=True):
        np.testing.assert_array_equal(sample.pixels, expected)


def test_any_rows_in_any_order(tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SLICE_BYTES", 2 * IMAGES[0].size)
    for name in ("a", "b"):
        save_file({"images": IMAGES}, tmp_path / f"{name}.safetensors")
    source = open_source(tmp_path, OPTIONS)
    entries = [list(source.entries())[index] for index in (3, 4, 5, 6, 7, 0, 11, 2, 1)]
    for entry, sample in zip(entries, source.samples(iter(entries), pool), strict=True):
        assert sample.entry is entry
        np.testing.assert_array_equal(sample.pixels, IMAGES[entry.index % 6])


# --- shards that change while they are read ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["replaced", "deleted", "cut off", "written to"])
def test_rows_read_before_a_change_stay(
    tmp_path: Path, pool: WorkerPool, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SLICE_BYTES", 2 * IMAGES[0].size)
    path = tmp_path / "a.safetensors"
    save_file({"images": IMAGES}, path)
    source = open_source(tmp_path, OPTIONS)
    samples = source.samples(list(source.entries()), pool)
    read = [next(samples), next(samples)]
    if change == "replaced":
        save_file({"images": IMAGES}, tmp_path / "new")
        os.rename(tmp_path / "new", path)
    elif change == "deleted":
        path.unlink()
    elif change == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    else:
        with open(path, "r+b") as file:
            file.write(b"1")
    read += samples
    for sample, expected in zip(read[:2], IMAGES, strict=False):
        np.testing.assert_array_equal(sample.pixels, expected)
    reason = Reason.TRUNCATED if change == "cut off" else Reason.VANISHED
    assert [sample.reason for sample in read] == [None] * 2 + [reason] * 4


# --- out --------------------------------------------------------------------------------------------------------------


def put_all(source: ShardSource, sink: Sink, pool: WorkerPool, entries: list[Entry]) -> None:
    """Every row, inverted: a change that can be seen."""
    for sample in source.samples(entries, pool):
        if sample.pixels is not None:
            sink.put(sample, 255 - sample.pixels)


def convert(raw: Path, out: Path, pool: WorkerPool, options: DataOptions = OPTIONS, skip: Collection[int] = ()) -> None:
    out.mkdir()
    source = shard_source(raw, options)
    sink = source.make_sink(out, pool)
    put_all(source, sink, pool, [entry for entry in source.entries() if entry.index not in skip])
    sink.sync()
    sink.finish()


@given(
    rows=st.integers(1, 40),
    size=st.tuples(st.integers(2, 5).filter(lambda side: side != 3), st.integers(2, 5).filter(lambda side: side != 3)),
    channels=st.sampled_from([1, 3]),
    nchw=st.booleans(),
    labels=st.sampled_from([None, np.uint8, np.int16, np.int64]),
    skip=st.sets(st.integers(0, 39)),
    carry=st.booleans(),
)
def test_round_trip(rows, size, channels, nchw, labels, skip, carry) -> None:
    random = np.random.default_rng(rows)
    images = random.integers(0, 256, (rows, *size, channels), np.uint8)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if nchw else images
    tensors: dict[str, NDArray[Any]] = {"ids": random.integers(0, 1 << 40, rows), "boxes": random.random((rows, 2, 2))}
    if labels is not None:
        tensors["labels"] = random.integers(0, 100, rows).astype(labels)
    with tempfile.TemporaryDirectory() as folder, WorkerPool(1, OPTIONS) as pool:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        raw.mkdir()
        save_file(
            {"images": images, "other": np.zeros(1000)} | tensors, raw / "a.safetensors", metadata={"x": "secret"}
        )
        convert(raw, out, pool, DataOptions(carry=("all",) if carry else ()), skip)
        kept = [row for row in range(rows) if row not in skip]
        if not kept:
            assert list(out.iterdir()) == []
            return
        written = load_file(out / "a.safetensors")
        wanted = {"images", "labels", *(("ids", "boxes") if carry else ())} & {"images", *tensors}
        assert written.keys() == wanted
        np.testing.assert_array_equal(written["images"], 255 - images[kept])
        for name in wanted - {"images"}:
            np.testing.assert_array_equal(written[name], tensors[name][kept])
            assert written[name].dtype == tensors[name].dtype
        assert b"secret" not in (out / "a.safetensors").read_bytes()


def test_class_names_are_written_and_the_output_is_a_source(tmp_path: Path, pool: WorkerPool) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    metadata = {"class_names": json.dumps(["é", "a\nb"])}
    save_file({"images": IMAGES, "labels": np.array([0, 1] * 3)}, raw / "a.safetensors", metadata=metadata)
    convert(raw, tmp_path / "out", pool)
    source = open_source(tmp_path / "out", OPTIONS)
    assert source.classes == ("é", "a\nb") and [entry.label for entry in source.entries()] == [0, 1] * 3


def test_carry(tmp_path: Path) -> None:
    save_file({"images": IMAGES, "ids": np.arange(6), "few": np.arange(5)}, tmp_path / "a.safetensors")
    for carry, unsanitized, left_behind in (
        ((), (), ("few", "ids")),
        (("ids",), ("ids",), ("few",)),
        (("all",), ("ids",), ("few",)),
    ):
        source = shard_source(tmp_path, DataOptions(carry=carry))
        assert (source.unsanitized(), source.left_behind) == (unsanitized, left_behind)
    for name in ("few", "nothing", "images"):
        assert repr(name) in problem(tmp_path, DataOptions(carry=(name,)))


@pytest.mark.parametrize("synced", [0, 1, 5, 6, 9])
@pytest.mark.parametrize("finished", [False, True])
def test_an_interrupted_job_ends_with_the_same_bytes(
    tmp_path: Path, pool: WorkerPool, synced: int, finished: bool
) -> None:
    raw, whole, out = tmp_path / "raw", tmp_path / "whole", tmp_path / "out"
    raw.mkdir()
    for name in ("a", "b"):
        save_file({"images": IMAGES, "labels": np.arange(6), "ids": np.arange(6)}, raw / f"{name}.safetensors")
    options = DataOptions(carry=("ids",))
    convert(raw, whole, pool, options)
    source = shard_source(raw, options)
    entries = list(source.entries())
    out.mkdir()
    sink = source.make_sink(out, pool)
    put_all(source, sink, pool, entries[:synced])
    assert sink.sync() == []  # rows are in no file of their own
    put_all(source, sink, pool, entries[synced:])  # written, and never committed
    sink.sync()
    if finished:
        sink.finish()
    sink = source.make_sink(out, pool, kept=iter(entries[:synced]))
    put_all(source, sink, pool, entries[synced:])
    assert sink.sync() == []
    sink.finish()
    sink.finish()
    for name in ("a.safetensors", "b.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_rows_out_of_order_are_refused(tmp_path: Path, pool: WorkerPool) -> None:
    """Labels are written in the order of rows: anything else would give images the labels of others."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    save_file({"images": IMAGES}, raw / "a.safetensors")
    source = shard_source(raw)
    with pytest.raises(ValueError, match="row 4 of a.safetensors comes after a later one"):
        put_all(source, source.make_sink(out, pool), pool, list(source.entries())[:1:-1])


def test_committed_rows_that_are_gone_are_noticed(tmp_path: Path, pool: WorkerPool) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    save_file({"images": IMAGES}, raw / "a.safetensors")
    source = open_source(raw, OPTIONS)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConflictError, match="has lost rows"):
        source.make_sink(tmp_path / "out", pool, kept=source.entries())


def test_a_carried_tensor_that_is_gone_at_the_end(tmp_path: Path, pool: WorkerPool) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    save_file({"images": IMAGES, "ids": np.arange(6)}, raw / "a.safetensors")
    options = DataOptions(carry=("ids",))
    source = shard_source(raw, options)
    sink = source.make_sink(out, pool)
    put_all(source, sink, pool, list(source.entries()))
    (raw / "a.safetensors").unlink()
    sink.sync()
    with pytest.raises(InputError, match="changed before its other tensors"):
        sink.finish()
