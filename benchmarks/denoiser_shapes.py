"""Networks and losses for the bundled denoiser at equal training cost: PSNR on held-out photos, and speed.

    python benchmarks/denoiser_shapes.py IMAGES... [--seconds 240] [--only NAME...]

IMAGES: folders of photos, none of them a test set; every twentieth, by the hash of its name, is held out. Each
contender trains for the given CPU seconds of this process (one thread: OMP_NUM_THREADS=1), the learning rate's cosine
fitted to as many steps as its first ones foretell. Results are added to benchmarks/results/denoiser_shapes.json one by
one; what is there for the same seconds is not done again. `NETWORK` of `dpclean.denoiser_training.initial_network` is
what `fit` begins with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine_facts import RESULTS, write_results
from torch import Tensor
from torch.nn import functional

from dpclean.denoise import schedule, unet
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.denoiser_training.patches import SMALL, Patches, read_patches
from dpclean.denoiser_training.training import Recipe, Training
from dpclean.device import keep_memory

NAME = "denoiser_shapes"
SIGMAS = (0.05, 0.125, 0.25, 0.5)
PROBED = 4  # steps, timed to find how many fit; a multiple of the steps between large patches
DEFAULTS = "Muon for the inner filters, two residual blocks a level, no attention, batch 32, relative squared error"
HELD_OUT = 256  # patches of each size
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))


@dataclass(frozen=True)
class Contender:
    """A network: its widths a level, residual blocks a level, pixels to a patch; and the loss it is fitted with."""

    widths: tuple[int, ...]
    layers: int
    patch_size: int
    loss: str = "relative"  # to what is usual at the noise level; log: of each image's error; squared: the plain mean
    batch_size: int = 32
    attends: bool = False  # at the lowest resolution

    def config(self) -> dict[str, Any]:
        levels, channels = len(self.widths), 3 * self.patch_size**2
        return {
            "sample_size": SMALL // self.patch_size,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": ("DownBlock2D",) * levels,
            "up_block_types": ("UpBlock2D",) * levels,
            "add_attention": self.attends,
            "norm_num_groups": 16,
        }


CONTENDERS = {
    "pixels 32-64-128": Contender((32, 64, 128), 2, 1),
    "pixels 32-64-128, log": Contender((32, 64, 128), 2, 1, "log"),
    "pixels 32-64-128, squared": Contender((32, 64, 128), 2, 1, "squared"),
    "pixels 32-64-128, batch 16": Contender((32, 64, 128), 2, 1, batch_size=16),
    "pixels 32-64-128, batch 64": Contender((32, 64, 128), 2, 1, batch_size=64),
    "pixels 32-64-128, attention": Contender((32, 64, 128), 2, 1, attends=True),
    "pixels 32-64-128, 3 blocks": Contender((32, 64, 128), 3, 1),
    "pixels 32-64-128-128": Contender((32, 64, 128, 128), 2, 1),
    "pixels 48-96-160": Contender((48, 96, 160), 2, 1),
    "patches 64-128": Contender((64, 128), 2, 2),
    "patches 96-192": Contender((96, 192), 2, 2),
    "patches of 4, 128-256": Contender((128, 256), 2, 4),
}


class Fitted(Training):
    """A training with the loss of a contender."""

    kind = "relative"

    def loss(self, found: Tensor, wanted: Tensor, abar: Tensor) -> Tensor:
        if self.kind == "relative":
            return super().loss(found, wanted, abar)
        errors = (found - wanted).square().mean((1, 2, 3))
        return (errors + 1e-3).log().mean() if self.kind == "log" else errors.mean()


def begin(contender: Contender, patches: Patches, steps: int) -> Fitted:
    torch.manual_seed(0)
    training = Fitted(
        unet.UNet2DModel(contender.config()),
        patches,
        Recipe(steps, contender.batch_size, 1e-3, 0),
        patch_size=contender.patch_size,
        alphas_cumprod=ALPHAS_CUMPROD,
        prediction_type="v_prediction",
        device=torch.device("cpu"),
    )
    training.kind = contender.loss
    return training


def fitted(contender: Contender, patches: Patches, seconds: float) -> Fitted:
    probe = begin(contender, patches, PROBED)
    probe.step()
    begun = time.process_time()
    for _ in range(PROBED):
        probe.step()
    training = begin(contender, patches, max(1, int(seconds * PROBED / (time.process_time() - begun))))
    while training.done < training.recipe.steps:
        training.step()
    return training


@torch.inference_mode()
def measure(training: Fitted, contender: Contender, held_out: Patches) -> dict[str, Any]:
    """PSNR by size and noise level, mean over the images, and images a second of one core at 32 px in bf16."""

    def at(timestep: float) -> FixedLevelNetwork:
        config = {**contender.config(), "patch_size": contender.patch_size}
        network = unet.UNet2DModel.from_state(config, training.average)
        return FixedLevelNetwork(network, timestep, torch.bfloat16, torch.device("cpu"))

    row: dict[str, Any] = {"parameters": sum(tensor.numel() for tensor in training.average.values())}
    for size, images in (("small", _small(held_out)), ("large", held_out.large[:HELD_OUT])):
        row[size] = {}
        for sigma in SIGMAS:
            level = schedule.match(ALPHAS_CUMPROD, sigma)
            network, abar = at(level.timestep), level.alphas_cumprod
            clean = images.float() / 127.5 - 1
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            x = abar**0.5 * clean + (1 - abar) ** 0.5 * noise
            parts = [part.bfloat16().contiguous(memory_format=torch.channels_last) for part in x.split(64)]
            v = torch.cat([network(part).float() for part in parts])
            error = (((abar**0.5 * x - (1 - abar) ** 0.5 * v).clamp(-1, 1) - clean) * 127.5).square().mean((1, 2, 3))
            row[size][f"{sigma:g}"] = float((10 * torch.log10(255**2 / error)).mean())
    network, times = at(100.0), []
    batch = torch.randn(64, 3, SMALL, SMALL).bfloat16().contiguous(memory_format=torch.channels_last)
    for _ in range(7):
        begun = time.process_time()
        network(batch)
        times.append(time.process_time() - begun)
    return {**row, "images_per_second_and_core": 64 / sorted(times)[3]}


def _small(held_out: Patches) -> Tensor:
    return functional.interpolate(
        held_out.large[:HELD_OUT].float(), (SMALL, SMALL), mode="bilinear", antialias=True
    ).round()


def split(sources: list[Path], work: Path) -> tuple[list[Path], list[Path]]:
    """(training, held-out) folders with copies of the images."""
    folders: tuple[list[Path], list[Path]] = ([], [])
    for number, source in enumerate(sources):
        pair = [work / f"{number}-{name}" for name in ("train", "held-out")]
        for folder in pair:
            folder.mkdir()
        for path in sorted(p for p in source.resolve().rglob("*") if p.is_file()):
            held = hashlib.sha256(path.name.encode()).digest()[0] < 256 // 20
            shutil.copy(path, pair[held] / path.name)
        folders[0].append(pair[0])
        folders[1].append(pair[1])
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGES")
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of training for each contender")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    a = parser.parse_args()
    keep_memory()
    path = RESULTS / f"{NAME}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = (before.get("seconds"), before.get("defaults")) == (a.seconds, DEFAULTS)
    rows: dict[str, Any] = before["rows"] if same else {}
    with tempfile.TemporaryDirectory() as work:
        training, held_out = (read_patches(folders, seed=0) for folders in split(a.images, Path(work)))
    for name in (name for name in a.only if name not in rows):
        contender = CONTENDERS[name]
        done = fitted(contender, training, a.seconds)
        rows[name] = {"steps": done.recipe.steps, **measure(done, contender, held_out)}
        tell(name, rows[name])
        facts = {"seconds": a.seconds, "images": training.images, "defaults": DEFAULTS}
        write_results(NAME, {**facts, "rows": rows})
    print(path)


def tell(name: str, row: dict[str, Any]) -> None:
    psnr = "  ".join(f"{value:5.2f}" for size in ("small", "large") for value in row[size].values())
    speed = row["images_per_second_and_core"]
    print(
        f"{name:28} {row['parameters'] / 1e6:5.2f} M {row['steps']:6} steps {speed:7.1f} images/s  {psnr}", flush=True
    )


if __name__ == "__main__":
    main()
