"""Hand-overs between threads and processes: every answer belongs to what was asked, whatever the schedule."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from dpclean.data.decoding import pool as workers
from dpclean.data.decoding import worker_threads
from dpclean.data.decoding import writer as writer_module
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.decoding.process import WorkerProcess
from dpclean.data.decoding.protocol import RESULT, WRITTEN
from dpclean.data.decoding.worker_threads import WorkerThreads
from dpclean.data.records import DataOptions, Entry, Sample
from dpclean.data.sources import open_source
from dpclean.data.sources import safetensors_shards as shards
from dpclean.errors import InternalError, Reason, SetupError
from tests.data.pictures import write

OPTIONS = DataOptions(output_format="same")


def picture(index: int) -> NDArray[np.uint8]:
    """[2, 2, 3]: its own number."""
    return np.full((2, 2, 3), (index >> 16, index >> 8 & 255, index & 255), np.uint8)


def number_of(pixels: NDArray[np.uint8] | None) -> int:
    assert pixels is not None
    return int.from_bytes(pixels[0, 0].tobytes(), "big")


def make_folder(root: Path, count: int) -> None:
    for index in range(count):
        write(root / f"{index % 3}" / f"{index:05d}.ppm", b"P6 2 2 255\n" + picture(index).tobytes())


def number_in(name: str) -> int:
    return int(name[-9:-4])


@contextmanager
def restless() -> Iterator[None]:
    """Threads take turns all the time, and now and then one stops until the others have overtaken it."""
    interval, stop = sys.getswitchinterval(), threading.Event()
    code, draw = os.path.join("dpclean", "data"), random.Random(1).random

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if code not in frame.f_code.co_filename:
            return None
        if event == "line" and draw() < 0.03:
            time.sleep(0.004)
        return trace

    def spin() -> None:
        while not stop.is_set():
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    before = sys.gettrace()
    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
        sys.setswitchinterval(interval)
        stop.set()
        spinning.join()


def through(raw: Path, out: Path) -> None:
    """Reads all of raw and writes it to out."""
    out.mkdir()
    source = open_source(raw, OPTIONS)
    with WorkerPool(2, OPTIONS) as pool:
        sink = source.make_sink(out, pool)
        for sample in source.samples(source.entries(), pool):
            assert sample.pixels is not None
            sink.put(sample, sample.pixels)
        sink.sync()
        sink.finish()


def test_no_image_gets_the_pixels_of_another_while_threads_take_turns(tmp_path: Path) -> None:
    make_folder(tmp_path / "raw", 120)
    with restless():
        through(tmp_path / "raw", tmp_path / "out")
    written = sorted((tmp_path / "out").glob("*/*.ppm"))
    assert len(written) == 120
    for path in written:
        assert path.read_bytes().endswith(picture(number_in(path.name)).tobytes())


def test_no_row_gets_the_pixels_of_another_while_threads_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SLICE_BYTES", 1 << 8)
    rows = np.stack([picture(index) for index in range(60)])
    for first in (0, 60):
        save_file({"images": rows, "labels": np.arange(60)}, _shard(tmp_path, first))
    with restless():
        through(tmp_path / "raw", tmp_path / "out")
    for first in (0, 60):
        assert _shard(tmp_path, first).stat().st_size <= (tmp_path / "out" / f"{first}.safetensors").stat().st_size
        found = open_source(tmp_path / "out" / f"{first}.safetensors", OPTIONS)
        with WorkerPool(1, OPTIONS) as pool:
            numbers = [(number_of(s.pixels), s.entry.label) for s in found.samples(found.entries(), pool)]
        assert numbers == [(index, index) for index in range(60)]


def _shard(folder: Path, first: int) -> Path:
    (folder / "raw").mkdir(exist_ok=True)
    return folder / "raw" / f"{first}.safetensors"


def test_a_chunk_that_is_done_before_its_hand_over_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, 300)
    ended = threading.Event()
    submit, end = WorkerThreads.submit, workers._Decoding.end

    def submit_and_wait(self: WorkerThreads, job: worker_threads.Job) -> None:
        ended.clear()
        submit(self, job)
        assert ended.wait(60)

    def end_and_tell(self: workers._Decoding) -> None:
        end(self)
        ended.set()

    monkeypatch.setattr(WorkerThreads, "submit", submit_and_wait)
    monkeypatch.setattr(workers._Decoding, "end", end_and_tell)
    source = open_source(tmp_path, OPTIONS)
    with WorkerPool(2, OPTIONS) as pool:
        samples = list(source.samples(source.entries(), pool))
    assert [number_of(sample.pixels) for sample in samples] == [number_in(sample.entry.name) for sample in samples]
    assert len(samples) == 300


def test_a_sample_of_another_entry_cannot_be_made() -> None:
    asked, other = (Entry(index, "a.png", -1, "a.png", None) for index in (3, 4))
    with pytest.raises(InternalError, match=r"a\.png"):
        Sample(asked, None, None, "", Reason.CORRUPT, False, other.identity)
    with pytest.raises(InternalError):
        Sample(asked, None, None, "", Reason.CORRUPT, False, Entry(3, "b.png", -1, "b.png", None).identity)


def shifted(monkeypatch: pytest.MonkeyPatch, size: int, place: int) -> None:
    """From the answer number `place` of that size on, each worker's answer bears the next one's number."""
    read = WorkerProcess.read

    def read_shifted(self: WorkerProcess, count: int, deadline: float | None) -> bytes:
        data = read(self, count, deadline)
        number = int.from_bytes(data[:8], "little")
        return (number + 1).to_bytes(8, "little") + data[8:] if count == size and number >= place else data

    monkeypatch.setattr(WorkerProcess, "read", read_shifted)


def test_the_answer_to_another_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, 10)
    shifted(monkeypatch, RESULT.size, 8)
    source = open_source(tmp_path, OPTIONS)
    with WorkerPool(1, OPTIONS) as pool:
        samples = list(source.samples(source.entries(), pool))
    assert [sample.reason for sample in samples] == [None] * 8 + [Reason.DECODER_DIED] * 2


def test_an_encoder_that_wrote_something_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "raw", 10)
    shifted(monkeypatch, WRITTEN.size, 8)
    with pytest.raises(SetupError, match="died twice"):
        through(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_job_in_which_nothing_moves_is_named(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "raw", 30)
    pools: list[WorkerThreads] = []
    serve = WorkerThreads._serve

    def serve_without_work(self: WorkerThreads, slot: worker_threads.Slot) -> None:
        if self is not pools[0 if kind == "decoder" else 1]:
            return serve(self, slot)
        while (job := self._jobs.get()) is not None:
            job.end()

    create = WorkerThreads.__init__

    def create_known(self: WorkerThreads, count: int, options: DataOptions) -> None:
        create(self, count, options)
        pools.append(self)

    monkeypatch.setattr(WorkerThreads, "__init__", create_known)
    monkeypatch.setattr(WorkerThreads, "_serve", serve_without_work)
    with pytest.raises(InternalError, match=f"no {kind} is at work"):
        through(tmp_path / "raw", tmp_path / "out")


def test_what_would_end_a_thread_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, 30)

    def leave(self: workers._Decoding, slot: worker_threads.Slot) -> None:
        raise SystemExit

    monkeypatch.setattr(workers._Decoding, "run", leave)
    source = open_source(tmp_path, OPTIONS)
    with WorkerPool(2, OPTIONS) as pool, pytest.raises(InternalError, match="ended by SystemExit"):
        list(source.samples(source.entries(), pool))


def test_room_that_an_image_did_not_use_is_given_back() -> None:
    """A decoder that dies between an image's size and its pixels."""
    stream = workers._Stream(None, OPTIONS)
    stream.admit(0, 1000)
    stream.release(1000)
    assert stream._held == 0


def test_two_streams_at_once_are_refused_instead_of_waiting_for_each_other(tmp_path: Path) -> None:
    make_folder(tmp_path, 30)
    source = open_source(tmp_path, OPTIONS)
    with WorkerPool(1, OPTIONS) as pool:
        first = source.samples(source.entries(), pool)
        next(first)
        with pytest.raises(RuntimeError, match="have not all been taken"):
            next(source.samples(source.entries(), pool))
        assert len(list(first)) == 29


def test_an_encoder_that_does_not_answer_is_named_and_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkerPool(1, OPTIONS) as pool:
        writer = pool.writer(tmp_path, replace=False)
        writer.put("0.png", "png", picture(0), None)
        writer.wait()
        (encoder,) = writer._workers.pids()
        monkeypatch.setattr(writer_module, "QUIET_SECONDS", 0.1)
        os.kill(encoder, signal.SIGSTOP)
        going_on = threading.Timer(2, os.kill, (encoder, signal.SIGCONT))
        going_on.start()
        writer.put("1.png", "png", picture(1), None)
        with pytest.warns(UserWarning, match=f"process {encoder}"):
            writer.wait()
        going_on.join()
        assert writer._workers.pids() == [encoder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]
