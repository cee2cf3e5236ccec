"""Images as bytes: the workers say of them what they say of files, however hostile, and nothing waits or grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpclean.data.decoding import pool as workers
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions, Entry
from dpclean.data.sources import open_source
from dpclean.errors import Reason
from tests.data.pictures import FORMATS, noise, png, png_chunk, saved, to_image, write

OPTIONS = DataOptions(max_pixels=1_000_000, decode_memory=192 << 20)


def hostile() -> Iterator[bytes]:
    """Images, what is left of them after a few kinds of damage, and what is none."""
    draw = np.random.default_rng(0)
    for format in FORMATS:
        whole = saved(to_image(noise(seed=1)), format)
        yield whole
        yield from (whole[: int(cut)] for cut in draw.integers(1, len(whole), 4))
        for _ in range(6):
            damaged = bytearray(whole)
            for place in draw.integers(0, len(whole), 3):
                damaged[place] = draw.integers(0, 256)
            yield bytes(damaged)
        yield whole + draw.bytes(5000)
    yield png(png_chunk(b"IDAT", b""), width=1 << 30, height=1 << 30)
    yield saved(Image.new("L", (1200, 1200)), "png")  # more pixels than are allowed
    yield from (b"", b"\x89", b"plain text\n" * 1000, draw.bytes(100_000), b"8BPS" + bytes(100), b"<svg></svg>")
    yield saved(to_image(noise(seed=2)), "png")


@pytest.mark.parametrize("ending", [".png", ".txt", ""])
def test_bytes_are_judged_as_the_file_that_has_them(tmp_path: Path, ending: str) -> None:
    for number, data in enumerate(hostile()):
        write(tmp_path / "raw" / f"{number:03d}{ending}", data)
    entries = list(open_source(tmp_path / "raw", OPTIONS).entries())
    with WorkerPool(2, OPTIONS) as pool:
        of_files = list(pool.decode(tmp_path / "raw", entries))
        of_bytes = list(pool.decode_bytes((e, (tmp_path / "raw" / e.name).read_bytes()) for e in entries))
    for one, other in zip(of_files, of_bytes, strict=True):
        told = (other.entry, other.reason, other.left_behind, other.format)
        assert told == (one.entry, one.reason, one.left_behind, one.format)
        np.testing.assert_array_equal(other.pixels, one.pixels)
    assert {sample.reason for sample in of_bytes} >= {None, Reason.TRUNCATED, Reason.TOO_MANY_PIXELS}
    assert any(sample.left_behind for sample in of_bytes) == (ending != ".png")
    assert of_bytes[-1].pixels is not None


def entry(index: int, reason: Reason | None = None) -> Entry:
    return Entry(index, f"{index}.png", -1, f"{index}.png", reason)


def test_more_bytes_than_a_worker_may_have_cost_that_image_alone() -> None:
    small, large = saved(to_image(noise()), "png"), saved(to_image(noise()), "png") + bytes(100 << 20)
    text = b"no image" * (12 << 20)  # of which a worker needs the beginning only
    with WorkerPool(1, DataOptions(decode_memory=64 << 20)) as pool:
        samples = list(pool.decode_bytes(zip(map(entry, range(4)), (small, large, text, small), strict=True)))
    assert [sample.reason for sample in samples] == [None, Reason.DECODER_DIED, Reason.NOT_AN_IMAGE, None]


def test_what_the_listing_left_out_is_not_decoded() -> None:
    files = [(entry(0), saved(to_image(noise()), "png")), (entry(1, Reason.UNREADABLE), b""), (entry(2), b"")]
    with WorkerPool(1, OPTIONS) as pool:
        assert [sample.reason for sample in pool.decode_bytes(files)] == [None, Reason.UNREADABLE, Reason.EMPTY]


def test_bytes_are_not_drawn_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "READ_AHEAD_BYTES", 4 << 20)
    monkeypatch.setattr(workers, "CHUNK_BYTES", 1 << 20)
    drawn = []

    def files() -> Iterator[tuple[Entry, bytes]]:
        for index in range(400):
            drawn.append(index)
            yield entry(index), b"x" * (1 << 18)

    with WorkerPool(1, OPTIONS) as pool:
        for taken, sample in enumerate(pool.decode_bytes(files()), 1):
            assert sample.reason is Reason.NOT_AN_IMAGE and len(drawn) <= taken + 24
    assert len(drawn) == 400
