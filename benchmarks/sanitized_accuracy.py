"""Accuracy of models trained on sanitized CIFAR-10, beside what the paper reports for all 50,000 images.

    python benchmarks/sanitized_accuracy.py TRAIN TEST [--images 50000] [--sigmas 0.1 0.25 0.5] [--denoisers ID ...]

TRAIN and TEST: what make_inputs.py makes of CIFAR-10 (shards, or a folder by classes). For each sigma and
bundled denoiser (none of which ever saw CIFAR-10) the first images of TRAIN are sanitized once, one model is trained on
them with the recipe, and all test images are classified clean, and again noised and denoised at the same sigma.
Paper: the figures of arXiv 2403.11981. A killed run goes on; what is done is written after each row.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from machine_facts import write_results
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from dpclean.data.dataset import match_labels, read_images
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import BUNDLED, find_denoiser
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Epoch, Trainer

PAPER = {0.1: 0.865, 0.25: 0.724, 0.5: 0.465}
KEY = b"dpclean benchmark: not a secret."


def sanitized(name: str, pixels: Sequence[NDArray[np.uint8]], sigma: float, *, test: bool, kept: Path) -> Tensor:
    """uint8 [N,32,32,3] after noise and denoising; kept in a file."""
    if not kept.exists():
        denoiser = Denoiser(find_denoiser(name), sigma)
        done = sorted(denoiser.denoise(enumerate(pixels), key=KEY, test=test), key=lambda r: r.index)
        temporary = kept.with_suffix(".new")
        save_file({"images": np.stack([result.pixels for result in done])}, temporary)
        temporary.rename(kept)
    return torch.from_numpy(load_file(kept)["images"])


def fitted(trainer: Trainer, images: Tensor, labels: Tensor, seed: int, kept: Path) -> float:
    """Fits, from the last checkpoint on; gives back the seconds."""
    state = torch.load(kept, weights_only=True) if kept.exists() else None
    spent = state["spent"] if state else 0.0

    def on_epoch(epoch: Epoch) -> None:
        nonlocal spent
        spent += epoch.seconds
        print(f"  epoch {epoch.number}/{epoch.epochs}: loss {epoch.loss:.3f}, {spent:.0f} s", flush=True)
        torch.save({"spent": spent, "checkpoint": trainer.checkpoint()}, kept.with_suffix(".new"))
        kept.with_suffix(".new").rename(kept)

    trainer.fit(images, labels, seed=seed, on_epoch=on_epoch, resume=state["checkpoint"] if state else None)
    kept.unlink(missing_ok=True)
    return spent


def measure(name: str, sigma: float, a: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    known, held = read_images(a.train, limit=a.images), read_images(a.test)
    labels = torch.from_numpy(known.labels)
    truth = torch.from_numpy(match_labels(held, known.classes))
    begun = perf_counter()
    kept = f"{name}-{len(known)}-{sigma:g}"
    images = sanitized(name, known.pixels, sigma, test=False, kept=a.work / f"train-{kept}.safetensors")
    sanitize_seconds = perf_counter() - begun
    recipe = replace(find_recipe(a.recipe), epochs=a.epochs or find_recipe(a.recipe).epochs)
    trainer = Trainer(recipe, len(known.classes), size=images.shape[1], device=torch.device("cpu"))
    seconds = fitted(trainer, images, labels, a.seed, a.work / f"fit-{kept}.pt")
    noised = sanitized(name, held.pixels, sigma, test=True, kept=a.work / f"test-{kept}.safetensors")
    clean = torch.from_numpy(np.stack(held.pixels))
    return {
        "denoiser": name,
        "sigma": sigma,
        "images": len(known),
        "test_images": len(held),
        "clean_test": float((trainer.predict(clean) == truth).float().mean()),
        "noised_test": float((trainer.predict(noised) == truth).float().mean()),
        "paper_50000": PAPER.get(sigma),
        "recipe": recipe.as_dict(),
        "seed": a.seed,
        "sanitize_seconds": sanitize_seconds,
        "train_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, metavar="TRAIN")
    parser.add_argument("test", type=Path, metavar="TEST")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--sigmas", type=float, nargs="+", default=sorted(PAPER))
    parser.add_argument("--denoisers", nargs="+", default=list(BUNDLED))
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/inputs/sanitized_accuracy"))
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print(f"{'sigma':>6} {'denoiser':>12} {'images':>7} {'clean test':>11} {'noised test':>12} {'paper':>7}  in %")
    for sigma, name in itertools.product(a.sigmas, a.denoisers):
        kept = a.work / f"row-{name}-{a.images}-{sigma:g}-{a.recipe}-{a.epochs}-{a.seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measure(name, sigma, a)))
        row = json.loads(kept.read_text())
        rows.append(row)
        paper = f"{100 * row['paper_50000']:7.1f}" if row["paper_50000"] else "      -"
        shares = f"{100 * row['clean_test']:11.2f} {100 * row['noised_test']:12.2f}"
        print(f"{sigma:6g} {name:>12} {row['images']:7} {shares} {paper}", flush=True)
        write_results("sanitized_accuracy", {"rows": rows})


if __name__ == "__main__":
    main()
