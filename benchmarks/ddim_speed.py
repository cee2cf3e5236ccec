"""ddim:8 against a loop over diffusers' DDIMScheduler with the same weights: uint8 images in, uint8 images out.

    python benchmarks/ddim_speed.py [--rounds 7] [--device cpu]

Both noise a batch at one sigma, evaluate the network at the same eight levels in the same type, and turn the last
prediction into pixels; diffusers eager and channels-last, its timesteps rounded to whole ones, as it wants them. They
take turns. On a CPU the time is the process's own over all cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from machine_facts import spread, write_results
from torch import Tensor
from torch.nn import functional

from dpclean.denoise.denoiser import DTYPES, Denoiser
from dpclean.denoise.loading import find_denoiser, load_through_diffusers
from dpclean.device import keep_memory

SIGMA, STEPS = 0.25, 8
IMAGES = {"cpu": 64, "cuda": 1024}  # in one batch


def by_diffusers(denoiser: Denoiser) -> Callable[[Tensor], Tensor]:
    """The loop that a user of diffusers would write."""
    from diffusers import DDIMScheduler

    files = find_denoiser("natural")
    dtype, device = DTYPES[denoiser.dtype], denoiser.device
    network = load_through_diffusers(files).to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()
    scheduler = DDIMScheduler.from_pretrained(files.scheduler.parent, clip_sample=True)
    timesteps = [round(evaluation.level.timestep) for evaluation in denoiser.evaluations(dtype)]
    # its own spacing counts from the schedule's end; this one has the timesteps lie so far apart
    scheduler.set_timesteps(scheduler.config["num_train_timesteps"] // (timesteps[0] // STEPS))
    abar = scheduler.alphas_cumprod[timesteps[0]].item()

    def run(images: Tensor) -> Tensor:
        clean = images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = abar**0.5 * clean + (1 - abar) ** 0.5 * torch.randn_like(clean)
        x = x.to(dtype, memory_format=torch.channels_last)
        for step in timesteps:
            found = scheduler.step(network(x, step).sample, step, x, eta=0.0)
            x = found.prev_sample
        pixels: Tensor = ((found.pred_original_sample.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return pixels.permute(0, 2, 3, 1).cpu()

    return run


def by_dpclean(denoiser: Denoiser) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        found = sorted(denoiser.denoise(enumerate(images.numpy()), key=bytes(32)), key=lambda result: result.index)
        return torch.from_numpy(np.stack([result.pixels for result in found]))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    denoiser = Denoiser(find_denoiser("natural"), SIGMA, method=f"ddim:{STEPS}", device=a.device)
    device = denoiser.device
    if device.type == "cpu":
        keep_memory()  # for both, as dpclean does
    ways = {"diffusers": by_diffusers(denoiser), "dpclean": by_dpclean(denoiser)}
    count = IMAGES[device.type]
    smooth = functional.interpolate(torch.rand(count, 3, 5, 5), (32, 32), mode="bicubic").clamp(0, 1)
    images = (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, float] = {}
    with torch.inference_mode():
        for number in range(a.rounds + 1):  # the first is not counted
            for name, run in ways.items():
                begun = clock()
                found = run(images)
                if number:
                    seconds[name].append(clock() - begun)
                errors[name] = float((found.float() - images.float()).square().mean().sqrt())
    assert abs(errors["dpclean"] / errors["diffusers"] - 1) < 0.1, errors  # both must do the same before times count
    ratio = spread([theirs / ours for theirs, ours in zip(seconds["diffusers"], seconds["dpclean"], strict=True)])
    rate = {name: spread([count / value for value in values]) for name, values in seconds.items()}
    print(f"ddim:{STEPS}: {ratio['median']:.2f} x ({ratio['q1']:.2f} to {ratio['q3']:.2f})", rate, errors)
    kind = {"device": denoiser.device_kind, "dtype": denoiser.dtype, "batch": count, "steps": STEPS, "sigma": SIGMA}
    name = "ddim_speed" if device.type == "cpu" else f"ddim_speed_{device.type}"
    print(write_results(name, {**kind, "ratio": ratio, "images_per_second": rate, "error": errors}))


if __name__ == "__main__":
    main()
