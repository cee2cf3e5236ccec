"""Images a second of the bundled denoiser against the DDPM-CIFAR U-Net (35.7 M parameters), 32 x 32, one machine.

    python benchmarks/denoiser_speed.py [--rounds 7] [--compile] [--name NAME]

Four contenders take turns: each network as diffusers runs it (eager, channels-last) and through dpclean's engine
(folded noise level, fused normalisation). Batch 64, the dtype that dpclean chooses, all cores. Then whole photos of
481 x 321, uint8 to uint8: dpclean's denoiser, which noises, cuts tiles and blends them, against torch's noise and the
network in diffusers on each photo whole, padded to what it takes. On a CPU the time is the process's own over all
cores, so that other work on the machine counts little. Ratios pair by pair.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine_facts import spread, write_results
from networks import random_ddpm_cifar
from torch import Tensor
from torch.nn import functional

from dpclean.denoise.denoiser import DTYPES, Denoiser, choose_dtype
from dpclean.denoise.loading import find_denoiser, load_network, load_through_diffusers
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.device import choose_device, keep_memory

BATCH, TIMESTEP = 64, 250.0
PHOTOS, HEIGHT, WIDTH, SIGMA = 8, 321, 481, 50 / 255


def contenders(
    name: str, dtype: torch.dtype, device: torch.device, compiled: bool
) -> dict[str, Callable[[Tensor], Tensor]]:
    files = find_denoiser(name)
    eager = load_through_diffusers(files).to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()
    timestep = torch.tensor(TIMESTEP, device=device)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "diffusers": lambda x: eager(x, timestep).sample,
        "dpclean": FixedLevelNetwork(load_network(files), TIMESTEP, dtype, device),
    }
    if compiled:
        program: Any = torch.compile(eager, dynamic=False, options={"freezing": True})
        found["compiled"] = lambda x: program(x, timestep).sample
    return found


def photo_contenders(dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    """From uint8 [N, H, W, 3] photos to the same, noised and denoised."""
    denoiser = Denoiser(find_denoiser("natural"), SIGMA)
    network = load_through_diffusers(find_denoiser("natural"))
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()
    abar, timestep = denoiser.level.alphas_cumprod, torch.tensor(denoiser.level.timestep, device=device)
    rows, columns = (-size % 4 for size in (HEIGHT, WIDTH))

    def by_dpclean(photos: Tensor) -> Tensor:
        found = sorted(denoiser.denoise(enumerate(photos.numpy()), key=bytes(32)), key=lambda result: result.index)
        return torch.from_numpy(np.stack([result.pixels for result in found]))

    def by_diffusers(photos: Tensor) -> Tensor:
        found = []
        for photo in photos:
            clean = photo.to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
            noised = abar**0.5 * clean + (1 - abar) ** 0.5 * torch.randn_like(clean)
            padded = functional.pad(noised, (0, columns, 0, rows), mode="reflect")
            v = network(padded.to(dtype, memory_format=torch.channels_last), timestep).sample[..., :HEIGHT, :WIDTH]
            image = abar**0.5 * noised - (1 - abar) ** 0.5 * v.float()
            found.append(((image.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).cpu())
        return torch.stack(found)

    return {"diffusers": by_diffusers, "dpclean": by_dpclean}


def take_turns(
    networks: dict[tuple[str, str], Callable[[Tensor], Tensor]], x: Tensor, rounds: int, device: torch.device
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each contender in each round; the first round is not counted."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in networks}
    with torch.no_grad():
        for number in range(rounds + 1):
            for key, run in networks.items():
                begun = clock()
                run(x)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number:
                    seconds[key].append(clock() - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also diffusers through torch.compile, weights frozen")
    parser.add_argument("--name", default="denoiser_speed", help="name of the result file")
    a = parser.parse_args()
    device = choose_device("auto")
    keep_memory()  # for all four, as dpclean does
    dtype = choose_dtype("auto", device)
    with tempfile.TemporaryDirectory() as folder:
        ddpm = random_ddpm_cifar(Path(folder) / "ddpm")
        networks = {
            (net, how): run
            for net, name in (("ddpm", str(ddpm)), ("natural", "natural"))
            for how, run in contenders(name, DTYPES[dtype], device, a.compile).items()
        }
    x = torch.randn(BATCH, 3, 32, 32, device=device).to(DTYPES[dtype], memory_format=torch.channels_last)
    with torch.no_grad():
        outputs = {key: run(x).float() for key, run in networks.items()}
    for (net, how), output in outputs.items():  # all ways must agree before their times mean anything
        difference = (output - outputs[net, "diffusers"]).norm() / outputs[net, "diffusers"].norm()
        assert difference < 0.05, (net, how, float(difference))
    seconds = take_turns(networks, x, a.rounds, device)
    smooth = functional.interpolate(torch.rand(PHOTOS, 3, 9, 13), (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    photos = (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    whole = photo_contenders(DTYPES[dtype], device)
    with torch.no_grad():
        for run in whole.values():
            assert (run(photos).float() - photos.float()).square().mean().sqrt() < 10  # noised they are off by 50
    on_photos = take_turns({("photos", how): run for how, run in whole.items()}, photos, a.rounds, device)
    results = {"dtype": dtype, "batch": BATCH, "images_per_second": {}, "ratios": {}}
    for key, times in seconds.items():
        results["images_per_second"][" ".join(key)] = rate = spread([BATCH / t for t in times])  # type: ignore[index]
        print(f"{key[0]:8} {key[1]:10} {rate['median']:8.1f} images/s ({rate['q1']:.1f} to {rate['q3']:.1f})")
    for ours, theirs in (
        (("natural", "dpclean"), ("ddpm", "diffusers")),
        (("natural", "dpclean"), ("ddpm", "dpclean")),
        (("natural", "diffusers"), ("ddpm", "diffusers")),
        (("natural", "dpclean"), ("natural", "diffusers")),
        (("ddpm", "dpclean"), ("ddpm", "diffusers")),
        *([(("ddpm", "dpclean"), ("ddpm", "compiled")), (("natural", "dpclean"), ("natural", "compiled"))] * a.compile),
    ):
        ratio = spread([t / o for o, t in zip(seconds[ours], seconds[theirs], strict=True)])
        label = f"{' '.join(ours)} / {' '.join(theirs)}"
        results["ratios"][label] = ratio  # type: ignore[index]
        print(f"{label:40} {ratio['median']:6.2f} x ({ratio['q1']:.2f} to {ratio['q3']:.2f})")
    ratio = spread(
        [t / o for o, t in zip(*(on_photos["photos", how] for how in ("dpclean", "diffusers")), strict=True)]
    )
    results["ratios"]["photos: natural dpclean / natural diffusers"] = ratio  # type: ignore[index]
    results["megapixels_per_second"] = spread(
        [PHOTOS * HEIGHT * WIDTH / 1e6 / t for t in on_photos["photos", "dpclean"]]
    )
    print(
        f"{'photos, natural dpclean / diffusers':40} {ratio['median']:6.2f} x ({ratio['q1']:.2f} to {ratio['q3']:.2f})"
    )
    print(write_results(a.name, results))


if __name__ == "__main__":
    main()
