"""Attacks of the poisoning benchmark on CIFAR-10, behind no defence and behind several, by `dpclean audit`.

    python benchmarks/audit.py DATA SCRATCH [CASE ...] [--targets N]

DATA is the data folder of make_inputs.py, with poison_setups_cifar10.json and the weights of ResNet-20. The trials are
those of the transfer setting of Schwarzschild et al. 2021 from number 46 on, as earlier ones were looked at while
settings were chosen; two of them name an image twice, which is changed once; triggers have trials that are drawn. RAW
are 2,500 images of CIFAR-10's training set, 250 a class: the trials' base images and the first others; tested are the
trials' targets and every tenth image of the test set. The extractor is a ResNet-20 that was trained on CIFAR-10, so it
has seen RAW: that is the white box of the attack's paper, and no model for a defence.
One thread. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from audit_cases import folder_of, kept, run_cases
from make_inputs import load_unpack
from PIL import Image

from dpclean.audit.attacks import ATTACKS
from dpclean.audit.job import audit

FIRST, TRIALS, EACH, EVERY = 46, 50, 250, 10  # trial, and how many; images of a class; test image
WEIGHTS = "cifar10_resnet20.safetensors"
SIGMAS = "0.1,0.25"
FROZEN: dict[str, Any] = {"extractor": "cifar-resnet20"}
VOTES = "partitions:250,subsample:0.004:1000"
SCRATCH: dict[str, Any] = {"victim": "tiny", "extractor": None, "weights": None, "targets": 3}
CASES: dict[str, dict[str, Any]] = {
    "bullseye-polytope": {"defence": f"sanitized,jpeg-75,deep-knn,spectral,{VOTES}"},
    "bullseye-polytope, adaptive at 0.1": {"adaptive": True, "defence": "sanitized", "sigma": "0.1"},
    "bullseye-polytope, adaptive at 0.25": {"adaptive": True, "defence": "sanitized", "sigma": "0.25"},
    "bullseye-polytope, adaptive at 0.5": {"adaptive": True, "defence": "sanitized", "sigma": "0.5", "targets": 3},
    "bullseye-polytope, 8 levels, adaptive": {"eps": 8, "adaptive": True, "sigma": "0.1", "targets": 5},
    "bullseye-polytope, 50 targets": {"defence": "sanitized", "targets": 50},
    "bullseye-polytope, other purifiers": {
        "defence": "sanitized,sanitized:perceptual,sanitized:natural:ddim:4",
        "test": "all-test",
    },
    "bullseye-polytope, 8 levels": {"eps": 8, "defence": "none"},
    "feature-collision": {"attack": "feature-collision"},
    "convex-polytope": {"attack": "convex-polytope"},
    "feature-collision, adaptive at 0.1": {
        "attack": "feature-collision",
        "adaptive": True,
        "sigma": "0.1",
        "targets": 3,
    },
    "convex-polytope, adaptive at 0.1": {"attack": "convex-polytope", "adaptive": True, "sigma": "0.1", "targets": 3},
    "label-consistent, adaptive at 0.1": {"attack": "label-consistent", "adaptive": True, "sigma": "0.1", "targets": 2},
    "hidden-trigger": {"attack": "hidden-trigger", "targets": 5},
    "hidden-trigger, adaptive at 0.25": {"attack": "hidden-trigger", "adaptive": True, "sigma": "0.25", "targets": 3},
    "label-consistent": {"attack": "label-consistent", "targets": 5},
    "narcissus": {"attack": "narcissus", "targets": 3},
    "badnets": {"attack": "badnets", "sigma": "0.25", "targets": 5},
    "label-consistent, from scratch": {"attack": "label-consistent", **SCRATCH, "sigma": "0.25"},
    "narcissus, from scratch": {"attack": "narcissus", **SCRATCH},
    "narcissus, from scratch, adaptive at 0.25": {
        "attack": "narcissus",
        "adaptive": True,
        **SCRATCH,
        "sigma": "0.25",
        "targets": 1,
    },
    "badnets, 100 poisons, from scratch": {"attack": "badnets", "poisons": 100, **SCRATCH, "sigma": "0.25"},
    "feature-collision, votes": {"attack": "feature-collision", "defence": VOTES},
    "convex-polytope, votes": {"attack": "convex-polytope", "defence": VOTES},
    "hidden-trigger, votes": {"attack": "hidden-trigger", "defence": VOTES, "targets": 3},
    "label-consistent, votes": {"attack": "label-consistent", "defence": VOTES, "targets": 3},
    "narcissus, votes": {"attack": "narcissus", "defence": VOTES, "targets": 3},
    "badnets, votes": {"attack": "badnets", "defence": VOTES, "targets": 3},
}


def write_inputs(data: Path, scratch: Path, trials: list[dict[str, Any]]) -> None:
    """RAW, the test images, a part and all of them, and the setups by name."""
    unpack = load_unpack(data)

    def name(place: int, label: int) -> str:
        return f"{unpack.CLASSES[label]}/{place:05d}.png"

    def save(root: Path, images: Any, labels: Any, places: list[int]) -> None:
        for place in places:
            path = root / name(place, labels[place])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[place]).save(path)

    images, labels = unpack.load_cifar10("train")
    bases = {place for trial in trials for place in trial["base_indices"]}
    chosen = list[int]()
    for label in range(len(unpack.CLASSES)):
        own = sorted(place for place in bases if labels[place] == label)
        others = [place for place in np.flatnonzero(labels == label).tolist() if place not in bases]
        chosen += own + others[: EACH - len(own)]
    save(scratch / "raw", images, labels, chosen)
    images, labels = unpack.load_cifar10("test")
    targets = {trial["target_index"] for trial in trials}
    save(scratch / "test", images, labels, sorted(targets | set(range(0, len(labels), EVERY))))
    save(scratch / "all-test", images, labels, list(range(len(labels))))
    setups = [
        {
            "target": name(trial["target_index"], trial["target_class"]),
            "poison_class": unpack.CLASSES[trial["base_class"]],
            "bases": [name(place, trial["base_class"]) for place in dict.fromkeys(trial["base_indices"])],
        }
        for trial in trials
    ]
    (scratch / "setups.json").write_text(json.dumps(setups))


def measured(name: str, data: Path, scratch: Path, targets: int) -> dict[str, Any]:
    """What the table says of a case; the whole of it stays in SCRATCH."""
    case = {"test": "test", **CASES[name]}
    targets, drawn = case.get("targets", targets), ATTACKS[case.get("attack", "bullseye-polytope")].has_trigger
    out = folder_of(scratch, name, targets)
    audit(
        scratch / "raw",
        out,
        test=scratch / case.pop("test"),
        setups=None if drawn else scratch / "setups.json",
        workers=1,
        threads=1,
        device="cpu",
        progress=True,
        **{**FROZEN, "weights": data / WEIGHTS, "sigma": SIGMAS, **case, "targets": targets},
    )
    trials = f"{targets} drawn by seed 0" if drawn else f"{FIRST} to {FIRST + targets - 1}"
    return {"trials": trials, **kept(out)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(map(repr, CASES)))
    parser.add_argument("--targets", type=int, default=20, help="where a case does not say")
    asked = parser.parse_args()
    trials = json.loads((asked.data / "poison_setups_cifar10.json").read_text())["transfer_learning"][FIRST:]
    if not (asked.scratch / "setups.json").exists():
        write_inputs(asked.data, asked.scratch, trials[:TRIALS])
    run_cases("audit", asked.cases or CASES, lambda name: measured(name, asked.data, asked.scratch, asked.targets))


if __name__ == "__main__":
    main()
