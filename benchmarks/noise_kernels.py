"""The fused noise kernels against torch, on one core, or on a GPU with --cuda.

    python benchmarks/noise_kernels.py [--rounds 25] [--cuda]

Forward: 1,024 images 32 x 32 x 3 to bf16 model input, against torch's normal_ (mean and deviation given, in place, 64
images at a time) and its cast to preallocated bf16: no integer noise, no images even. Back: a bf16 prediction to
uint8, against the unfused chain (two float(), mul, sub, div, clamp, add, mul, round, cast, copy to [H, W, C]). All
buffers are touched before; the allocator keeps its memory (glibc is told so: page faults would only slow torch).
Results are checked before anything is timed; rivals take turns; on the CPU time is the thread's own, which a busy
machine disturbs less. Writes results/noise_kernels.json, or noise_kernels_cuda.json.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from machine_facts import spread, write_results

from dpclean.kernels import kernel_names
from dpclean.noise import add_noise, to_model_input, to_uint8

KEY, ABAR, COUNT, SIDE = bytes(range(32)), 0.5, 1024, 32
SAMPLES = COUNT * SIDE * SIDE * 3
CHUNK = 64 * SIDE * SIDE * 3
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Rivals = dict[str, Callable[[], object]]
Clock = Callable[[Callable[[], object]], float]


def keep_memory() -> None:
    """Stops glibc from giving memory back to the system, and from mapping large blocks anew each time."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 1 << 30
    libc.mallopt(m_trim_threshold, largest)
    libc.mallopt(m_mmap_threshold, largest)


def with_kernel(name: str, work: Callable[[], object]) -> object:
    os.environ["DPCLEAN_KERNEL"] = name
    return work()


def chain(x_t: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    x0 = (x_t.float() - e.float() * (1 - ABAR) ** 0.5) / ABAR**0.5
    y: torch.Tensor = ((x0.clamp(-1, 1) + 1) * 127.5).round()
    return y.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def plain_input(images: torch.Tensor, sigma: float) -> torch.Tensor:
    noised = add_noise(images, sigma, key=KEY, run=1, indices=range(COUNT)).float()
    a = torch.tensor(ABAR**0.5 / 255, dtype=torch.float64).float().to(images.device)
    sample: torch.Tensor = ((2 * noised - 255) * a).bfloat16()
    return sample.permute(0, 3, 1, 2)


def forward_rivals(images: torch.Tensor, sigma: float, layout: str, kernels: list[str]) -> Rivals:
    device = images.device
    out = torch.zeros(COUNT, 3, SIDE, SIDE, dtype=torch.bfloat16, device=device).to(memory_format=LAYOUTS[layout])
    drawn, cast = torch.zeros(CHUNK, device=device), torch.zeros(SAMPLES, dtype=torch.bfloat16, device=device)
    whole = torch.zeros(SAMPLES if device.type == "cuda" else 0, device=device)

    def rival() -> None:
        if device.type == "cuda":  # a GPU wants the whole batch at once
            cast.copy_(whole.normal_(0.0, sigma))
            return
        for start in range(0, SAMPLES, CHUNK):
            cast[start : start + CHUNK].copy_(drawn.normal_(0.0, sigma))

    fused = partial(to_model_input, images, sigma, ABAR, key=KEY, run=1, indices=np.arange(COUNT), out=out)
    rivals: Rivals = {"torch": rival, **{name: partial(with_kernel, name, fused) for name in kernels}}
    for name in kernels:
        out.zero_()
        rivals[name]()
        assert torch.equal(out, plain_input(images, sigma)), name
    return rivals


def backward_rivals(images: torch.Tensor, layout: str, kernels: list[str]) -> Rivals:
    device = images.device
    x_t = plain_input(images, 0.5).contiguous(memory_format=LAYOUTS[layout])
    e = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    e = e.contiguous(memory_format=LAYOUTS[layout])
    out = torch.zeros(COUNT, SIDE, SIDE, 3, dtype=torch.uint8, device=device)
    fused = partial(to_uint8, x_t, e, ABAR, prediction_type="epsilon", out=out)
    rivals: Rivals = {"torch": partial(chain, x_t, e), **{name: partial(with_kernel, name, fused) for name in kernels}}
    for name in kernels:
        out.zero_()
        rivals[name]()
        # The chain rounds in other places than the specification: at most one grey level apart.
        assert (out.int() - chain(x_t, e).int()).abs().max() <= 1, name
    return rivals


def seconds_on_cpu(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def seconds_on_cuda(work: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def compare(what: str, rivals: Rivals, rounds: int, clock: Clock) -> list[dict[str, object]]:
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds + 2):
        for name, work in rivals.items():
            spent = clock(work)
            if turn >= 2:  # the first two warm up
                seconds[name].append(spent)
    rows: list[dict[str, object]] = []
    for name in rivals:
        ratios = [a / b for a, b in zip(seconds["torch"], seconds[name], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        ns = statistics.median(seconds[name]) / SAMPLES * 1e9
        rows.append({
            "what": what, "kernel": name, "seconds": spread(seconds[name]), "ns_per_sample": ns,
            "ratio": {"min": low, "median": middle, "max": high},
        })  # fmt: skip
        print(f"{what:<28}{name:<8}{ns:>9.3f} ns {middle:>7.2f} x  ({low:.2f} to {high:.2f})", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--cuda", action="store_true", help="the CUDA kernels against torch on the same GPU")
    a = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    device, clock = ("cuda", seconds_on_cuda) if a.cuda else ("cpu", seconds_on_cpu)
    kernels = [kernel_names()[0]] if a.cuda else list(kernel_names())
    images = torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), dtype=torch.uint8).to(device)
    rows: list[dict[str, object]] = []
    for layout in LAYOUTS:
        for sigma in (0.25, 0.5, 1.0):
            rivals = forward_rivals(images, sigma, layout, kernels)
            rows += compare(f"noise {sigma} {layout}", rivals, a.rounds, clock)
    for layout in LAYOUTS:
        rows += compare(f"back {layout}", backward_rivals(images, layout, kernels), a.rounds, clock)
    write_results("noise_kernels_cuda" if a.cuda else "noise_kernels", {"images": COUNT, "side": SIDE, "rows": rows})


if __name__ == "__main__":
    main()
