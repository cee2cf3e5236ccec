"""Whether threads fight for cores: `train` and `sanitize` beside busy loops, default threads against one.

    python benchmarks/busy_machine.py [--rounds 3] [--loops 4]

`dpclean train` of 108 images of 32 px and `dpclean sanitize` of 17 of 224 px, with nothing and with busy loops beside
them, as they come, with OMP_NUM_THREADS=1, and with torch's own number of threads that spin while they wait, which is
what both did before. The three take turns; seconds of wall time of the whole command; ratios pair by pair. What else
the machine does counts as more loops: the load at the beginning of each round is part of the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine_facts import spread, write_results
from PIL import Image

DPCLEAN = [sys.executable, "-m", "dpclean"]
WAYS = {
    "default": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "spinning": {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "OMP_WAIT_POLICY": "active"},
}


def make_images(folder: Path, count: int, size: int) -> Path:
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return folder


def seconds(command: list[str], out: Path, way: dict[str, str]) -> float:
    """Of a command that makes OUT, in an environment of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    begun = time.monotonic()
    subprocess.run([*DPCLEAN, *command, "--out", str(out), "--quiet"], env=clean | way, stdout=-3, check=True)
    took = time.monotonic() - begun
    shutil.rmtree(out)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--without-spinning", action="store_true", help="leave out what takes longest")
    a = parser.parse_args()
    ways = [way for way in WAYS if way != "spinning" or not a.without_spinning]
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        raw = make_images(work / "small", 108, 32)
        subprocess.run([*DPCLEAN, "sanitize", str(raw), "--sigma", "0.25", "--out", str(work / "clean"), "--quiet"])
        commands = {
            "train": ["train", str(work / "clean"), "--holdout", "0.1"],
            "sanitize": ["sanitize", str(make_images(work / "large", 17, 224)), "--sigma", "0.25"],
        }
        for loops in (0, a.loops):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
            try:
                for name, command in commands.items():
                    load: list[float] = []
                    taken: dict[str, list[float]] = {way: [] for way in ways}
                    for _ in range(a.rounds):
                        load.append(round(os.getloadavg()[0], 2))
                        for way in ways:
                            taken[way].append(seconds(command, work / "out", WAYS[way]))
                    ratios = {
                        way: spread([d / t for d, t in zip(taken["default"], taken[way], strict=True)])
                        for way in ways[1:]
                    }
                    results[f"{name}, {loops} loops"] = {
                        "load": load,
                        "seconds": {way: spread(times) for way, times in taken.items()},
                        "default / one thread": ratios["one thread"],
                    }
                    told = ", ".join(f"{way} {np.median(times):.1f} s" for way, times in taken.items())
                    one = ratios["one thread"]
                    print(
                        f"{name:9} {loops} loops, load {load}: {told};"
                        f" default / one thread {one['median']:.2f} ({one['q1']:.2f} to {one['q3']:.2f})",
                        flush=True,
                    )
            finally:
                for loop in busy:
                    loop.kill()
    print(write_results("busy_machine", results))


if __name__ == "__main__":
    main()
