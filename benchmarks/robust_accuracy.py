"""Accuracy under an attack that knows the defence, by `dpclean audit --attack pgd`.

    python benchmarks/robust_accuracy.py TEST MODEL SCRATCH [--methods one-step sde:20] [--images 128 --steps 40]

The setting of Nie et al. 2022 ("Diffusion Models for Adversarial Purification", section 5): CIFAR-10 test, changes of
at most 8 / 255 a pixel, 40 steps of PGD on the cross-entropy, each along the mean gradient of 20 draws of the noise
(Athalye et al. 2018). TEST: labelled test images. MODEL: what `dpclean train` wrote. The same command goes on where it
was stopped; rows of other methods and settings that the result file has stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine_facts import RESULTS, write_results

from dpclean.audit.evasion.job import audit


def measured(a: argparse.Namespace, method: str) -> dict[str, dict[str, Any]]:
    """By the method and the setting, and by the model alone."""
    out = a.scratch / f"{method.replace(':', '-')}-{a.images}-{a.steps}-{a.draws}"
    told = audit(
        out, model=a.model, test=a.test, targets=a.images, steps=a.steps, draws=a.draws, sigma=a.sigma, method=method,
        device=a.device, threads=1, progress=True,
    )  # fmt: skip
    print(told.headline)
    found, setting = dict[str, dict[str, Any]](), f"{a.images} images, {a.steps} steps, {a.draws} draws"
    for row in told.rows:
        knows = row["knows"] is not None
        if knows or row["defence"] == "none":
            found[f"{method}, {setting}" if knows else f"none, {setting}"] = row
        else:
            found[f"{method}, {setting}, attacked without it"] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--methods", nargs="+", default=["one-step", "sde:20"])
    parser.add_argument("--sigma", default="0.25")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="robust_accuracy", help="name of the result file")
    a = parser.parse_args()
    path = RESULTS / f"{a.name}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    for method in a.methods:
        rows.update(measured(a, method))
    model = json.loads((a.model / "model.json").read_text())["weights_sha256"]
    print(write_results(a.name, {"eps": 8, "sigma": a.sigma, "model": model, "device": a.device, "rows": rows}))


if __name__ == "__main__":
    main()
