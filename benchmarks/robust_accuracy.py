"""Accuracy under an attack that knows the defence, by `dpclean audit --attack pgd`.

    python benchmarks/robust_accuracy.py DATA MODEL SCRATCH --method sde:20 [--images 128 --from 0 --to 128]

The setting of Nie et al. 2022 ("Diffusion Models for Adversarial Purification", section 5): CIFAR-10 test, changes of
at most 8 / 255 a pixel, 40 steps of PGD on the cross-entropy, each along the mean gradient of 20 draws of the noise
(Athalye et al. 2018). DATA: a folder of CIFAR-10 test images by class, of which every K-th is taken. MODEL: what
`dpclean train` wrote. They are attacked in parts, and the result file has each part that is done. The same command
goes on where it was stopped; several at once may each take some of the images.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from evasion_curve import chosen
from machine_facts import RESULTS, write_results

from dpclean.audit.evasion.job import audit


def part_of(test: Path, images: list[Path]) -> Path:
    """A folder a class."""
    for path in images:
        target = test / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--method", default="one-step")
    parser.add_argument("--sigma", default="0.25")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--part", type=int, default=8, help="images a part")
    parser.add_argument("--from", type=int, default=0, dest="first", help="of the images, the first to attack")
    parser.add_argument("--to", type=int, help="and the one to stop before")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--votes", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="robust_accuracy", help="name of the result file")
    a = parser.parse_args()
    setting = f"{a.method}, {a.steps} steps, {a.draws} draws"
    scratch = a.scratch / f"{setting} of {a.images}".replace(":", "-").replace(", ", "-").replace(" ", "-")
    images = chosen(a.data, a.images)
    model = json.loads((a.model / "model.json").read_text())["weights_sha256"]
    end = min(len(images), len(images) if a.to is None else a.to)
    for start in range(a.first, end, a.part):
        of_part = images[start : min(start + a.part, end)]
        test = part_of(scratch / f"test-{start}", of_part)
        told = audit(
            scratch / f"audit-{start}", model=a.model, test=test, targets=len(of_part), steps=a.steps,
            draws=a.draws, votes=a.votes, sigma=a.sigma, method=a.method, device=a.device, threads=1, progress=True,
        )  # fmt: skip
        print(told.headline, flush=True)
        path = RESULTS / f"{a.name}.json"
        settings: dict[str, Any] = json.loads(path.read_text())["settings"] if path.exists() else {}
        before = settings.get(setting, {})
        parts = (before["parts"] if before.get("model") == model else {}) | {str(start): told.rows}
        settings[setting] = {
            "method": a.method, "sigma": a.sigma, "steps": a.steps, "draws": a.draws, "votes": a.votes,
            "asked": a.images, "model": model, "device": a.device, "parts": parts,
        }  # fmt: skip
        print(write_results(a.name, {"eps": 8, "settings": settings}))


if __name__ == "__main__":
    main()
