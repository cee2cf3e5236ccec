"""Rounds of reading and writing under hostile schedules: does an image get another's pixels, does one get lost?

    python benchmarks/race_of_hand_overs.py --rounds 1000

A round reads images that hold their own number, from a folder and now and then from shards, writes them, and compares
what came out with the number in each name. Threads stop for five milliseconds before a line of dpclean/data now and
then (--pauses is the share of lines), so that the others overtake it there; threads take turns every microsecond, and
as many others as there are cores do nothing but compete. A round in which nothing moves for --patience seconds hangs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from machine_facts import write_results
from safetensors.numpy import load_file, save_file

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import DataOptions
from dpclean.data.sources import Source, open_source

OPTIONS = DataOptions(output_format="same")
POOL_ROUNDS = 10  # with the same worker processes
SHARD_ROUNDS = 10  # one round of so many reads shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--images", type=int, default=600, metavar="N", help="images in a round")
    parser.add_argument("--patience", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--pauses", type=float, default=0.01, metavar="SHARE")
    parser.add_argument("--dry", action="store_true", help="write no results")
    asked = parser.parse_args()
    sys.setswitchinterval(1e-6)
    trace = pausing(asked.pauses)
    threading.settrace(trace)
    for _ in range(len(os.sched_getaffinity(0))):
        threading.Thread(target=spin, daemon=True).start()
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        sources = lay(Path(place), asked.images)
        pool = WorkerPool(2, OPTIONS)
        for number in range(asked.rounds):
            if number % POOL_ROUNDS == 0:
                pool.close()
                pool = WorkerPool(2, OPTIONS)
            turn = Round(sources["shards" if number % SHARD_ROUNDS == 0 else "folder"], Path(place) / str(number), pool)
            wrong, hung = turn.result(asked.patience)
            counts.update(rounds=1, images=turn.moved, wrong_images=wrong, wrong_rounds=wrong > 0, hung_rounds=hung)
            shutil.rmtree(turn.out, ignore_errors=True)
            if hung:
                threading.Thread(target=pool.close, daemon=True).start()
                pool = WorkerPool(2, OPTIONS)
            if wrong or hung or number % 100 == 99:
                print(f"{time.monotonic() - begun:.0f} s: {dict(counts)}", flush=True)
        pool.close()
    minutes = round((time.monotonic() - begun) / 60, 1)
    names = ("rounds", "images", "wrong_rounds", "wrong_images", "hung_rounds")
    results = {
        **{name: counts[name] for name in names},
        "images_in_a_round": asked.images,
        "pauses": asked.pauses,
        "minutes": minutes,
    }
    print(results)
    if not asked.dry:
        print(f"results in {write_results('race_of_hand_overs', results)}")
    sys.stdout.flush()
    os._exit(0)  # threads that hang, and those that spin


def pausing(share: float) -> Any:
    """A trace function that lets other threads overtake the present one."""
    code, draw = os.path.join("dpclean", "data"), random.Random(1).random

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if code not in frame.f_code.co_filename:
            return None
        if event == "line" and draw() < share:
            time.sleep(0.005)
        return trace

    return trace


def spin() -> None:
    while True:
        pass


def lay(place: Path, images: int) -> dict[str, Source]:
    """The same pictures as a folder and as shards."""
    pixels = [np.full((2, 2, 3), (n >> 16, n >> 8 & 255, n & 255), np.uint8) for n in range(images)]
    for n, picture in enumerate(pixels):
        path = place / "folder" / f"{n % 3}" / f"{n:05d}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P6 2 2 255\n" + picture.tobytes())
    (place / "shards").mkdir()
    for n in range(0, images, 100):
        numbers = np.arange(n, min(n + 100, images))
        rows: dict[str, np.ndarray] = {"images": np.stack(pixels[n : n + 100]), "labels": numbers}
        save_file(rows, place / "shards" / f"{n:05d}.safetensors")
    return {name: open_source(place / name, OPTIONS) for name in ("folder", "shards")}


class Round:
    """One way of all images from a source to files."""

    def __init__(self, source: Source, out: Path, pool: WorkerPool) -> None:
        self.source = source
        self.out = out
        self.pool = pool
        self.images = sum(1 for _ in source.entries())
        self.moved = self.wrong = 0
        out.mkdir()

    def result(self, patience: float) -> tuple[int, bool]:
        """(images that have another's pixels, or none, whether it hung)."""
        thread = threading.Thread(target=self.go, daemon=True)
        thread.start()
        moved, deadline = -1, 0.0
        while thread.is_alive():
            if moved != self.moved:
                moved, deadline = self.moved, time.monotonic() + patience
            if time.monotonic() > deadline:
                return self.wrong, True
            thread.join(0.2)
        return self.wrong + self.wrong_files(), False

    def go(self) -> None:
        sink = self.source.make_sink(self.out, self.pool)
        for sample in self.source.samples(self.source.entries(), self.pool):
            assert sample.pixels is not None
            self.wrong += number_of(sample.pixels) != expected(sample.entry.name)
            sink.put(sample, sample.pixels)
            self.moved += 1
        sink.sync()
        sink.finish()

    def wrong_files(self) -> int:
        files = sorted(self.out.glob("*/*.ppm"))
        wrong = sum(
            number_of(np.frombuffer(path.read_bytes()[-12:], np.uint8)) != expected(path.name) for path in files
        )
        rows = 0
        for path in sorted(self.out.glob("*.safetensors")):
            found = load_file(path)
            rows += len(found["images"])
            pairs = zip(found["images"], found["labels"].tolist(), strict=True)
            wrong += sum(number_of(pixels) != label for pixels, label in pairs)
        return wrong + self.images - min(self.moved, len(files) + rows)


def number_of(pixels: np.ndarray) -> int:
    return int.from_bytes(pixels.reshape(-1)[:3].tobytes(), "big")


def expected(name: str) -> int:
    """The number in 0/00042.ppm or 00000.safetensors#42."""
    shard, _, row = name.rpartition("#")
    return int(shard.removesuffix(".safetensors")) + int(row) if shard else int(name[-9:-4])


if __name__ == "__main__":
    main()
