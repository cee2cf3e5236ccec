"""Time a pixel for images of many sizes, and of few images at a time, of the bundled denoiser.

    python benchmarks/image_sizes.py [--rounds 3] [--megapixels 0.5] [--parts edges few loader]

First, uint8 to uint8, as many images of one edge as make the megapixels; time a pixel against that of 128 px, in turns.
Then `Sanitizer` on 1, 8 and 128 images of 32, 64 and 224 px: milliseconds a call, and a pixel's time against that of
128 images. Then a data loader over 240 images of 64 px with the Sanitizer in its data set, images a second of wall
time. One thread; on a CPU the time of a call is the process's own, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from machine_facts import spread, write_results
from torch.utils.data import DataLoader, Dataset

from dpclean import Sanitizer
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser

EDGES = (128, 28, 32, 48, 64, 72, 96, 100, 160, 224, 256, 300, 500, 512)
SIGMA = 0.25


def pictures(count: int, edge: int) -> torch.Tensor:
    """uint8 [N, 3, H, W]."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, edge, edge), dtype=np.uint8))


def seconds(call: Callable[[], object]) -> float:
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    begun = clock()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begun


class Sanitized(Dataset[torch.Tensor]):
    """Images that are sanitized one by one, as they are asked for."""

    def __init__(self, sanitizer: Sanitizer, images: torch.Tensor) -> None:
        self.sanitizer, self.images = sanitizer, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sanitizer(self.images[index])  # type: ignore[no-any-return]


def by_edge(rounds: int, pixels: float) -> dict[str, dict[str, float]]:
    denoiser = Denoiser(find_denoiser("natural"), SIGMA)
    images = {
        edge: list(pictures(max(1, round(pixels / edge**2)), edge).permute(0, 2, 3, 1).contiguous()) for edge in EDGES
    }
    taken: dict[int, list[float]] = {edge: [] for edge in EDGES}
    for number in range(rounds + 1):
        for edge, some in images.items():
            time_a_pixel = seconds(lambda some=some: list(denoiser.denoise(enumerate(some), key=bytes(32))))  # type: ignore[misc]
            if number:
                taken[edge].append(time_a_pixel / (len(some) * edge**2))
    found = {}
    for edge, times in taken.items():
        ratio = spread([t / r for t, r in zip(times, taken[128], strict=True)])
        found[str(edge)] = {**ratio, "microseconds_a_pixel": 1e6 * float(np.median(times))}
        print(f"{edge:4} px {1e6 * np.median(times):6.2f} us a pixel, {ratio['median']:.2f} times that of 128 px")
    return found


def by_number(sanitizer: Sanitizer, rounds: int) -> dict[str, float]:
    found = {}
    for edge in (32, 64, 224):
        best = {}
        for count in (1, 8, 128):
            images = pictures(count, edge)
            sanitizer(images[:1])
            best[count] = min(seconds(lambda images=images: sanitizer(images)) for _ in range(rounds))  # type: ignore[misc]
        for count, least in best.items():
            found[f"{count} of {edge} px, ms"] = 1000 * least
            times = least / count / (best[128] / 128)
            print(f"{count:4} images of {edge:3} px: {1000 * least:8.1f} ms, {times:.2f} times its share of 128 images")
    return found


def in_a_loader(sanitizer: Sanitizer) -> dict[str, float]:
    data, found = Sanitized(sanitizer, pictures(240, 64)), {}
    for workers in (0, 2):
        begun = time.perf_counter()
        batches = list(DataLoader(data, batch_size=32, num_workers=workers))
        found[f"{workers} workers, images/s"] = rate = sum(map(len, batches)) / (time.perf_counter() - begun)
        print(f"data loader, {workers} workers: {rate:.1f} images/s")
    begun = time.perf_counter()
    for batch in DataLoader(data.images, batch_size=32):  # type: ignore[arg-type]
        sanitizer(batch)
    found["by batches, images/s"] = rate = 240 / (time.perf_counter() - begun)
    print(f"called with batches of 32: {rate:.1f} images/s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", type=float, default=0.5)
    parser.add_argument("--parts", nargs="+", default=["edges", "few", "loader"], metavar="edges|few|loader")
    a = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    if "edges" in a.parts:
        results["time a pixel against 128 px"] = by_edge(a.rounds, 1e6 * a.megapixels)
    if "few" in a.parts:
        results["few images"] = by_number(Sanitizer(SIGMA), a.rounds)
    if "loader" in a.parts:
        results["data loader"] = in_a_loader(Sanitizer(SIGMA))
    print(write_results("image_sizes", {"megapixels": a.megapixels, **results}))


if __name__ == "__main__":
    main()
