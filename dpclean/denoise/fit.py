"""Train a denoiser on trusted images and write it as a diffusers folder.

    python -m dpclean.denoise.fit IMAGES... --out DIR --minutes 60

One network learns every noise level between SIGMA_RANGE: v-prediction, the level drawn
log-uniformly for each image. Each step's random numbers depend on (seed, step) only, so an
interrupted training goes on where its last checkpoint stands.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dpclean.denoise.schedule import match

if TYPE_CHECKING:
    from torch import Tensor

SIGMA_RANGE = (0.018, 1.1)
PATCH = 64  # edge of the stored training patches
CHECKPOINT_SECONDS = 120.0
BETAS = (0.0001, 0.02)
TIMESTEPS = 1000
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": BETAS[1],
    "beta_schedule": "linear",
    "beta_start": BETAS[0],
    "clip_sample": True,
    "num_train_timesteps": TIMESTEPS,
    "prediction_type": "v_prediction",
}
NETWORK: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "add_attention": False,
    "norm_num_groups": 16,
}


def load_patches(sources: list[Path], seed: int) -> Tensor:
    """uint8 [N, 3, PATCH, PATCH]: small images whole, photos as crops at several scales."""
    rng = np.random.default_rng(seed)
    patches = []
    files = sorted(p for s in sources for p in s.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for path in files:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        edge = min(image.size)
        if edge <= PATCH:
            patches.append(np.asarray(image.resize((PATCH, PATCH), Image.Resampling.LANCZOS)))
            continue
        for _ in range(100):
            crop = int(math.exp(rng.uniform(math.log(PATCH), math.log(edge))))
            left, top = (int(rng.integers(0, size - crop + 1)) for size in image.size)
            box = (left, top, left + crop, top + crop)
            patches.append(np.asarray(image.resize((PATCH, PATCH), Image.Resampling.LANCZOS, box=box)))
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)


def draw_batch(patches: Tensor, generator: torch.Generator, size: int, edge: int) -> Tensor:
    """float32 [size, 3, edge, edge] in [-1, 1]: crops and reductions of random patches, flipped."""
    chosen = patches[torch.randint(len(patches), (size,), generator=generator)]
    crop = int(torch.randint(edge, PATCH + 1, (1,), generator=generator))
    # half of the batches keep the whole patch: small images are mostly whole objects made small
    if torch.rand((), generator=generator) < 0.5:
        crop = PATCH
    top, left = (int(torch.randint(0, PATCH - crop + 1, (1,), generator=generator)) for _ in range(2))
    x = chosen[:, :, top : top + crop, left : left + crop].float()
    if crop != edge:
        x = torch.nn.functional.interpolate(x, (edge, edge), mode="bilinear", antialias=True)
    flip = torch.rand(size, generator=generator) < 0.5
    x[flip] = x[flip].flip(3)
    return x.round() / 127.5 - 1


def noised_pair(
    clean: Tensor, generator: torch.Generator, levels: Tensor, abars: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(model input, v target, timesteps) for a clean batch, one noise level an image."""
    pick = torch.randint(len(levels), (len(clean),), generator=generator)
    abar = abars[pick][:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    # one image in sixteen is grey: in a three-channel network its one noise goes in three times
    grey = torch.rand(len(clean), generator=generator) < 1 / 16
    clean[grey] = clean[grey].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    noise[grey] = noise[grey][:, :1].expand(-1, 3, -1, -1)
    x = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    v = abar.sqrt() * noise - (1 - abar).sqrt() * clean
    return x, v, steps[pick]


def write_denoiser(network: Any, weights: dict[str, Tensor], out: Path) -> None:
    """The diffusers layout: config.json, fp16 weights, scheduler/scheduler_config.json."""
    (out / "scheduler").mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in network.config.items() if not k.startswith("_")}
    config["_class_name"] = "UNet2DModel"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2, sort_keys=True) + "\n")
    half = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    save_file(half, out / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def fit(
    sources: list[Path], out: Path, *, minutes: float, batch: int, learning_rate: float, seed: int, threads: int
) -> None:
    """Train for the given wall time (summed over interruptions) and write the denoiser to out."""
    from diffusers import UNet2DModel

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network = UNet2DModel(**NETWORK)
    parameters = dict(network.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)

    betas = np.linspace(*BETAS, TIMESTEPS)
    alphas_cumprod = np.cumprod(1 - betas)
    sigmas = np.geomspace(*SIGMA_RANGE, 4096)
    matched = [match(alphas_cumprod, float(s)) for s in sigmas]
    levels = torch.tensor(sigmas)
    abars = torch.tensor([m.alphas_cumprod for m in matched], dtype=torch.float32)
    steps = torch.tensor([m.timestep for m in matched], dtype=torch.float32)

    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.safetensors"
    step, elapsed = 0, 0.0
    if checkpoint.exists():
        saved = load_file(checkpoint)
        step, elapsed = int(saved["step"]), float(saved["elapsed"])
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(saved[f"weight/{name}"])
                average[name].copy_(saved[f"average/{name}"])
                optimizer.state[p] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": saved[f"first/{name}"].to(memory_format=torch.preserve_format),
                    "exp_avg_sq": saved[f"second/{name}"].to(memory_format=torch.preserve_format),
                }

    def save() -> None:
        state = {"step": torch.tensor(step), "elapsed": torch.tensor(elapsed)}
        for name, p in parameters.items():
            state[f"weight/{name}"] = p.detach().contiguous()
            state[f"average/{name}"] = average[name].contiguous()
            state[f"first/{name}"] = optimizer.state[p]["exp_avg"].contiguous()
            state[f"second/{name}"] = optimizer.state[p]["exp_avg_sq"].contiguous()
        save_file(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        write_denoiser(network, average, out)

    patches = load_patches(sources, seed)
    print(f"{len(patches)} patches, {sum(p.numel() for p in parameters.values()) / 1e6:.2f} M parameters", flush=True)
    total, started, saved_at, running = minutes * 60, time.monotonic() - elapsed, elapsed, 0.0
    while elapsed < total:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        edge, size = (64, batch // 4) if step % 4 == 3 else (32, batch)
        clean = draw_batch(patches, generator, size, edge)
        x, v, timesteps = noised_pair(clean, generator, levels, abars, steps)
        rate = min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, elapsed / total)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * max(rate, 1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = network(x, timesteps).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), v)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.9995, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        running += float(loss.detach())
        elapsed = time.monotonic() - started
        if step % 200 == 0:
            print(f"step {step} {elapsed:.0f} s loss {running / 200:.5f}", flush=True)
            running = 0.0
        if elapsed - saved_at > CHECKPOINT_SECONDS:
            save()
            saved_at = elapsed
    save()
    checkpoint.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, metavar="IMAGES", help="folders of trusted images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    fit(
        a.sources,
        a.out,
        minutes=a.minutes,
        batch=a.batch,
        learning_rate=a.learning_rate,
        seed=a.seed,
        threads=a.threads,
    )
