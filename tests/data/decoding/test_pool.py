"""Worker processes: a crash, a hang or a glutton costs one image; order is kept; nothing waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpclean.data.decoding import pool as workers
from dpclean.data.decoding import process
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions, Entry, Sample
from dpclean.data.sources import open_source
from dpclean.errors import Reason, SetupError
from tests.data.pictures import noise, saved, write, write_png

SLOW = b"P3 1000 1000 255\n" + b"1 2 3 " * 1_000_000  # a picture in digits: about a second for Pillow


def listing(root: Path) -> list[Entry]:
    return list(open_source(root, DataOptions()).entries())


def make_folder(root: Path, count: int, special: int | None = None, data: bytes = b"") -> list[Entry]:
    for index in range(count):
        if index == special:
            write(root / f"{index:03d}.png", data)
        else:
            write_png(root / f"{index:03d}.png", seed=index)
    return listing(root)


def decoded(pool: WorkerPool, root: Path, entries: list[Entry], way: str) -> Iterator[Sample]:
    """The samples of files in a folder, or of their bytes alone."""
    if way == "files":
        return pool.decode(root, entries)
    return pool.decode_bytes((entry, (root / entry.name).read_bytes()) for entry in entries)


def check_all_but(samples: list[Sample], special: int, reason: Reason | None) -> None:
    for index, sample in enumerate(samples):
        assert sample.entry.index == index
        if index != special:
            np.testing.assert_array_equal(sample.pixels, noise(seed=index))
    assert samples[special].reason is reason


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_many_small_images_in_order(tmp_path: Path, way: str) -> None:
    entries = make_folder(tmp_path, 200)
    with WorkerPool(3, DataOptions()) as pool:
        check_all_but(list(decoded(pool, tmp_path, entries, way)), 0, None)


def test_any_entries_in_any_order(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 40)[::-1][::3]
    with WorkerPool(2, DataOptions()) as pool:
        for entry, sample in zip(entries, pool.decode(tmp_path, iter(entries)), strict=True):
            assert sample.entry is entry
            np.testing.assert_array_equal(sample.pixels, noise(seed=entry.index))


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_a_slow_decoder_costs_one_image(tmp_path: Path, way: str) -> None:
    options = DataOptions(decode_timeout=2)  # far from what a small image takes, and from what that one takes
    entries = make_folder(tmp_path, 30, 11, b"P3 3000 3000 255\n" + b"1 " * 27_000_000)
    with WorkerPool(1, options) as pool:
        check_all_but(list(decoded(pool, tmp_path, entries, way)), 11, Reason.TIMEOUT)


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_a_stopped_decoder_costs_one_image(tmp_path: Path, way: str) -> None:
    entries = make_folder(tmp_path, 30, 11, SLOW)
    with WorkerPool(1, DataOptions(decode_timeout=3)) as pool:
        samples = []
        for sample in decoded(pool, tmp_path, entries, way):
            samples.append(sample)
            if sample.entry.index == 10:  # the decoder is at 11 now
                os.kill(pool.decoder_pids()[0], signal.SIGSTOP)
        check_all_but(samples, 11, Reason.TIMEOUT)


def kill_at(pool: WorkerPool, tmp_path: Path, entries: list[Entry], way: str, times: int) -> list[Sample]:
    """Samples, while the decoder that is busy with image 11 is killed so often."""
    samples, dead = [], 0
    for sample in decoded(pool, tmp_path, entries, way):
        samples.append(sample)
        while sample.entry.index == 10 and len(samples) == 11 and dead < times:
            for pid in pool.decoder_pids():
                os.kill(pid, signal.SIGKILL)
                dead += 1
                while pid in pool.decoder_pids() and dead < times:
                    time.sleep(0.001)
    return samples


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_a_killed_decoder_has_a_second_try(tmp_path: Path, way: str) -> None:
    entries = make_folder(tmp_path, 30, 11, SLOW)
    with WorkerPool(1, DataOptions()) as pool:
        samples = kill_at(pool, tmp_path, entries, way, times=1)
    check_all_but(samples, 11, None)
    assert samples[11].pixels is not None and samples[11].pixels.shape == (1000, 1000, 3)


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_a_decoder_that_dies_twice_costs_one_image(tmp_path: Path, way: str) -> None:
    entries = make_folder(tmp_path, 30, 11, SLOW)
    with WorkerPool(1, DataOptions()) as pool:
        check_all_but(kill_at(pool, tmp_path, entries, way, times=2), 11, Reason.DECODER_DIED)


@pytest.mark.parametrize("way", ["files", "bytes"])
def test_a_glutton_costs_one_image(tmp_path: Path, way: str) -> None:
    large = saved(Image.new("RGB", (6000, 6000)), "png", compress_level=1)
    entries = make_folder(tmp_path, 20, 7, large)
    with WorkerPool(1, DataOptions(decode_memory=64 << 20)) as pool:
        check_all_but(list(decoded(pool, tmp_path, entries, way)), 7, Reason.DECODER_DIED)
    with WorkerPool(1, DataOptions()) as pool:
        assert next(decoded(pool, tmp_path, entries[7:], way)).pixels is not None


def test_a_sparse_file_of_a_terabyte(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 5)
    with open(tmp_path / "003.png", "r+b") as file:
        file.truncate(1 << 40)
    with WorkerPool(1, DataOptions()) as pool:
        check_all_but(list(pool.decode(tmp_path, entries)), 3, Reason.DECODER_DIED)


def test_read_ahead_is_bounded_in_bytes_and_the_next_image_always_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "READ_AHEAD_BYTES", 1 << 20)
    pixels = np.zeros((500, 500, 3), np.uint8)
    for index in range(24):
        pixels[0, 0] = index
        write(tmp_path / f"{index:02d}.png", saved(Image.fromarray(pixels), "png"))
    with WorkerPool(3, DataOptions()) as pool:
        for index, sample in enumerate(pool.decode(tmp_path, listing(tmp_path))):
            assert sample.pixels is not None and sample.pixels[0, 0, 0] == index


def test_entries_are_not_drawn_far_ahead(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 3) * 1000
    drawn = []
    bad = (Entry(9, "x", -1, "x.png", Reason.NOT_REGULAR),) * 3000
    with WorkerPool(1, DataOptions()) as pool:
        for source in (entries, bad):
            drawn.clear()
            samples = pool.decode(tmp_path, (drawn.append(1) or entry for entry in source))
            next(samples)
            assert len(drawn) < 300
            samples.close()


def test_a_stream_left_early_does_not_hold_up_the_next(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 100)
    with WorkerPool(2, DataOptions()) as pool:
        for _ in range(3):
            samples = pool.decode(tmp_path, entries)
            next(samples)
            samples.close()
        check_all_but(list(pool.decode(tmp_path, entries)), 0, None)


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 100)
    pool = WorkerPool(2, DataOptions())
    samples = pool.decode(tmp_path, entries)
    next(samples)
    alive = pool.decoder_pids()
    assert alive
    pool.close()
    for pid in alive:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RuntimeError):
        list(samples)


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    make_folder(tmp_path, 1)
    program = f"""
import time
from collections.abc import Iterator
from pathlib import Path
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.data.decoding.pool import WorkerPool
source, pool = open_source(Path({str(tmp_path)!r}), DataOptions()), WorkerPool(1, DataOptions())
next(source.samples(source.entries(), pool))
print(pool.decoder_pids()[0], flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("program", ["/bin/false", "/nothing/there"])
def test_a_worker_that_does_not_start_is_named(tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = make_folder(tmp_path, 3)
    monkeypatch.setattr(sys, "executable", program)
    with WorkerPool(2, DataOptions()) as pool, pytest.raises(SetupError, match="does not start"):
        list(pool.decode(tmp_path, entries))


def test_signals_to_the_group_are_left_to_the_parent(tmp_path: Path) -> None:
    entries = make_folder(tmp_path, 30)
    with WorkerPool(1, DataOptions()) as pool:
        samples = pool.decode(tmp_path, entries)
        read = [next(samples)]
        (pid,) = pool.decoder_pids()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        check_all_but([*read, *samples], 0, None)
        assert pool.decoder_pids() == [pid] and os.getpgid(pid) != os.getpgid(0)


def test_a_worker_imports_no_torch(tmp_path: Path) -> None:
    program = "import sys, dpclean.data.decoding.worker; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program]) == b"False\n"


def test_a_module_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = make_folder(tmp_path / "raw", 3)
    write(tmp_path / "numpy.py", b"raise SystemExit")
    write(tmp_path / "dpclean.py", b"raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with WorkerPool(1, DataOptions()) as pool:
        check_all_but(list(pool.decode(tmp_path / "raw", entries)), 0, None)


LIMITED = """
import resource, sys
from pathlib import Path
from dpclean.data.records import DataOptions
from dpclean.data.sources import open_source
from dpclean.data.decoding.pool import WorkerPool
hard = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
source = open_source(Path(sys.argv[1]), DataOptions())
with WorkerPool(1, DataOptions()) as pool:
    samples = source.samples(source.entries(), pool)
    first = next(samples)
    limits = Path(f"/proc/{pool.decoder_pids()[0]}/limits").read_text()
    print([sample.reason for sample in (first, *samples)], pool.remarks())
print(next(line for line in limits.splitlines() if line.startswith("Max address space")))
"""


def limited(root: Path, hard: int) -> subprocess.CompletedProcess[str]:
    """Reading root in a process whose memory is limited to so many bytes, for good."""
    return subprocess.run([sys.executable, "-c", LIMITED, str(root), str(hard)], capture_output=True, text=True)


def test_a_limit_on_memory_stays_and_is_said_where_it_is_below_what_was_asked(tmp_path: Path) -> None:
    make_folder(tmp_path, 3)
    wide, narrow = limited(tmp_path, 64 << 30), limited(tmp_path, 1 << 30)
    assert "[None, None, None] []" in wide.stdout, wide.stderr
    assert f" {64 << 30} " in wide.stdout.splitlines()[-1]
    assert "[None, None, None] ['the limit on memory (ulimit -v) leaves" in narrow.stdout, narrow.stderr
    assert narrow.stdout.splitlines()[-1].split()[3:5] == [str(1 << 30)] * 2


def test_too_little_memory_for_any_image_is_an_error_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = make_folder(tmp_path, 3)
    monkeypatch.setattr(process, "LEAST_ROOM", 1 << 40)
    with WorkerPool(1, DataOptions()) as pool, pytest.raises(SetupError, match="leaves 1024 MiB for an image"):
        list(pool.decode(tmp_path, entries))
