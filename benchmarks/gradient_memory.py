"""Memory and time of a gradient through the denoiser: as it is, with activations beyond a fixed size computed again on
the way back, against all of them kept.

    python benchmarks/gradient_memory.py [--method ddim:8] [--images 64] [--size 32] [--rounds 3]

Each measurement is a process of its own; memory is its peak beyond what stands before the first image.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from machine_facts import spread, write_results


def gradient(kept: bool, method: str, images: int, size: int) -> None:
    """Prints seconds and MiB of one gradient."""
    import torch

    from dpclean import Sanitizer
    from dpclean.denoise import differentiable

    if kept:
        differentiable.KEPT_PIXELS = 1 << 40
    sanitizer = Sanitizer(0.25, method=method, device="cpu", differentiable=True)
    x = torch.rand(images, 3, size, size, requires_grad=True)
    with torch.no_grad():
        sanitizer(x[:1])
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    sanitizer(x).square().sum().backward()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, (peak - before) / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ddim:8")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", choices=("again", "kept"))
    a = parser.parse_args()
    if a.alone:
        return gradient(a.alone == "kept", a.method, a.images, a.size)
    found: dict[str, list[list[float]]] = {"again": [], "kept": []}
    for _ in range(a.rounds):
        for way, measured in found.items():
            command = [sys.executable, __file__, "--alone", way, "--method", a.method, "--images", str(a.images)]
            command += ["--size", str(a.size)]
            measured.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(way, measured[-1], flush=True)
    times = [again[0] / kept[0] for again, kept in zip(found["again"], found["kept"], strict=True)]
    memory = {way: round(statistics.median(row[1] for row in rows)) for way, rows in found.items()}
    write_results(
        "gradient_memory",
        {
            "method": a.method, "images": a.images, "size": a.size, "MiB": memory,
            "memory, again / kept": round(memory["again"] / memory["kept"], 3), "time, again / kept": spread(times),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
