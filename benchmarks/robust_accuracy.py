"""Accuracy under an attack that knows the defence: PGD through noise, denoiser and classifier, gradients averaged.

    python benchmarks/robust_accuracy.py DATA [--methods one-step sde:20] [--images 512 --steps 40 --eot 20]

The setting of Nie et al. 2022 ("Diffusion Models for Adversarial Purification", section 5): CIFAR-10 test, changes of
at most 8 / 255 a pixel, 40 steps of PGD on the cross-entropy, each along the mean gradient of 20 draws of the noise
(Athalye et al. 2018). The defaults are smaller, as a CPU carries them; what was done is printed and kept. The attack is
that of `dpclean audit --attack pgd`, in whole grey levels, and is judged by draws of its own. Classifier: ResNet-56,
trained on clean CIFAR-10, or --model, what `dpclean train` wrote. sigma 0.17 is t* = 0.1 of their schedule. --keep:
rows of other methods that the result file has stay; each has its own setting.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine_facts import RESULTS, write_results
from make_inputs import load_unpack
from networks import load_classifier
from torch import Tensor

from dpclean import Sanitizer
from dpclean.audit.evasion.pgd import LINF, Budget, Look, attacked
from dpclean.audit.evasion.protected import differentiable
from dpclean.train.fixed_model import find_model

BUDGET = Budget(LINF, 8)
BATCH = 64


def changed(images: Tensor, labels: Tensor, defended: Look, steps: int, draws: int, first: int) -> Tensor:
    """Images in grey levels [N, 3, H, W] as an attacker has changed them. first: the number of the first of them."""
    seeds = [torch.Generator().manual_seed(first + place) for place in range(len(images))]
    normal = torch.stack([torch.randn(images.shape[1:], generator=seed) for seed in seeds]).to(images.device)
    return attacked(images, labels, defended, BUDGET, steps=steps, draws=draws, normal=normal)


def resnet56(data: Path, device: str) -> Callable[[Tensor], Tensor]:
    network = load_classifier(data, 56).to(device).requires_grad_(False)
    mean, deviation = (
        torch.tensor(v, device=device).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def seen(levels: Tensor) -> Tensor:
        logits: Tensor = network((levels / 255 - mean) / deviation)
        return logits

    return seen


@torch.inference_mode()
def right(defended: Look, images: Tensor, labels: Tensor) -> int:
    return int((defended(images, 0).argmax(1) == labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--methods", nargs="+", default=["one-step", "sde:20"])
    parser.add_argument("--sigma", type=float, default=0.17)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eot", type=int, default=2, metavar="DRAWS", help="of the noise, for each gradient")
    parser.add_argument("--model", metavar="DIR", help="that 'dpclean train' wrote, in place of ResNet-56")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="robust_accuracy", help="name of the result file")
    a = parser.parse_args()
    images, labels = load_unpack(a.data.resolve()).load_cifar10("test")
    clean = torch.from_numpy(images[: a.images]).permute(0, 3, 1, 2).float().to(a.device)
    truth = torch.from_numpy(labels[: a.images]).long().to(a.device)
    device = torch.device(a.device)
    seen = resnet56(a.data, a.device) if a.model is None else differentiable(find_model(a.model), device)

    def through(sanitizer: Sanitizer) -> Look:
        return lambda levels, draw: seen(255 * sanitizer(levels / 255))

    path = RESULTS / f"{a.name}.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["rows"] if a.keep and path.exists() else {}
    ways: dict[str, tuple[Look, int]] = {} if "none" in rows else {"none": (lambda levels, draw: seen(levels), 1)}
    for method in a.methods:
        sanitizer = Sanitizer(a.sigma, method=method, device=a.device, differentiable=True)
        ways[method] = through(sanitizer), a.eot
    for name, (defended, draws) in ways.items():
        begun, before, after = time.perf_counter(), 0, 0
        for start in range(0, len(clean), BATCH):
            some, known = clean[start : start + BATCH], truth[start : start + BATCH]
            before += right(defended, some, known)
            after += right(defended, changed(some, known, defended, a.steps, draws, start), known)
        rows[name] = {
            "accuracy": before / len(clean), "robust": after / len(clean), "images": len(clean), "steps": a.steps,
            "draws": draws, "seconds": round(time.perf_counter() - begun, 1),
        }  # fmt: skip
        print(f"{name:10} {100 * before / len(clean):5.1f} %, attacked {100 * after / len(clean):5.1f} %", flush=True)
    model = None if a.model is None else find_model(a.model).digest
    setting = {"epsilon": "8/255", "sigma": a.sigma, "model": model, "device": a.device}
    print(write_results(a.name, {**setting, "rows": rows}))


if __name__ == "__main__":
    main()
