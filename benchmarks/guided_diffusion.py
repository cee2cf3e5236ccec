"""Poisons whose base images a guided diffusion model made, on scikit-learn's digits, by `dpclean audit`.

    pip install scikit-learn
    python benchmarks/guided_diffusion.py SCRATCH [CASE ...] [--targets N]

The 1,797 digits of 8 x 8 pixels are brought to 16 x 16 and divided by chance: 600 for the extractor, which is trained
by the recipe `tiny`, 700 are RAW, and 497 are tested. The generator is a small class-conditional UNet2DModel of
diffusers that learns the images of extractor and RAW, as the attacker has these. Each case is an attack from the
generator's images and the same attack from images of RAW, for the same targets. One thread. The same command again goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audit_cases import folder_of, kept, run_cases
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch.nn import functional

from dpclean.audit.job import audit
from dpclean.classifier_training.job import train

EDGE, PARTS = 16, {"extractor": 600, "raw": 700, "test": 497}
STEPS, BATCH, RATE, AVERAGED = 2500, 64, 1e-3, 0.995  # of the generator; of its weights' running mean a step
EPS, POISONS, SIGMAS = 16, 10, "0.1,0.25"
CASES: dict[str, dict[str, Any]] = {
    "bullseye-polytope": {"attack": "bullseye-polytope"},
    "guided-diffusion": {"attack": "guided-diffusion"},
    "guided-diffusion, votes": {"attack": "guided-diffusion", "defence": "partitions:70,subsample:0.01:1000"},
    "bullseye-polytope, adaptive at 0.25": {"attack": "bullseye-polytope", "adaptive": True, "sigma": "0.25"},
    "guided-diffusion, adaptive at 0.25": {"attack": "guided-diffusion", "adaptive": True, "sigma": "0.25"},
}
NETWORK: dict[str, Any] = {
    "sample_size": EDGE,
    "in_channels": 1,
    "out_channels": 1,
    "num_class_embeds": 10,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}


def write_digits(scratch: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    folders = np.repeat(list(PARTS), list(PARTS.values()))
    for folder, place in zip(folders, order, strict=True):
        path = scratch / folder / str(digits.target[place]) / f"{place:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = (digits.images[place] * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(levels).resize((EDGE, EDGE), Image.Resampling.BICUBIC).save(path)


def train_generator(scratch: Path, out: Path) -> None:
    """By the usual loss, on the noise; what is kept are the means of the weights."""
    paths = sorted(path for folder in ("extractor", "raw") for path in (scratch / folder).rglob("*.png"))
    levels = np.stack([np.array(Image.open(path)) for path in paths])
    images = torch.from_numpy(levels).float()[:, None] / 127.5 - 1
    labels = torch.tensor([int(path.parent.name) for path in paths])
    torch.manual_seed(0)
    network, schedule = UNet2DModel(**NETWORK), DDPMScheduler()
    mean: Any = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGED)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,))
        noise, timesteps = torch.randn(BATCH, 1, EDGE, EDGE), torch.randint(len(schedule), (BATCH,))
        noised = schedule.add_noise(images[chosen], noise, timesteps)
        loss = functional.mse_loss(network(noised, timesteps, labels[chosen]).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        mean.update_parameters(network)
    mean.module.save_pretrained(out)
    schedule.save_pretrained(out / "scheduler")


def prepare(scratch: Path) -> None:
    """Data, extractor and generator, where they are not there already."""
    if not (scratch / "generator").exists():
        write_digits(scratch)
        train_generator(scratch, scratch / "generator")
    train(
        scratch / "extractor",
        scratch / "model",
        test=scratch / "test",
        recipe="tiny",
        seed=1,
        workers=1,
        threads=1,
        device="cpu",
    )


def measured(name: str, scratch: Path, targets: int) -> dict[str, Any]:
    """What the table says of a case; the whole of it stays in SCRATCH."""
    out = folder_of(scratch, name, targets)
    audit(
        scratch / "raw",
        out,
        test=scratch / "test",
        extractor=str(scratch / "model"),
        generator=scratch / "generator" if name.startswith("guided") else None,
        eps=EPS,
        poisons=POISONS,
        targets=targets,
        workers=1,
        threads=1,
        device="cpu",
        progress=True,
        **{"sigma": SIGMAS, **CASES[name]},
    )
    return kept(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(map(repr, CASES)))
    parser.add_argument("--targets", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prepare(asked.scratch)
    run_cases(
        "guided_diffusion",
        asked.cases or CASES,
        lambda name: measured(name, asked.scratch, asked.targets),
        generator={"steps": STEPS, "batch": BATCH, **NETWORK},
    )


if __name__ == "__main__":
    main()
