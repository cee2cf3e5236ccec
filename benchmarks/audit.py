"""Attacks of the poisoning benchmark on CIFAR-10, behind no defence and behind noise and denoiser, by `dpclean audit`.

    python benchmarks/audit.py DATA SCRATCH [--targets N] [--adaptive]

DATA is the data folder of make_inputs.py, with poison_setups_cifar10.json and the weights of ResNet-20. The trials are
those of the transfer setting of Schwarzschild et al. 2021 from number 44 on, as earlier ones were looked at while
settings were chosen. RAW are 2,500 images of CIFAR-10's training set, 250 a class: the trials' base images and the
first others; tested are the trials' targets and every tenth image of the test set. The extractor is a ResNet-20 that
was trained on CIFAR-10, so it has seen RAW: that is the white box of the attack's paper, and no model for a defence.
The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine_facts import write_results
from make_inputs import load_unpack
from PIL import Image

from dpclean.audit.job import audit
from dpclean.errors import DpcleanError

FIRST, EACH, EVERY = 44, 250, 10  # trial; images of a class; test image
SIGMAS, WEIGHTS = "0.1,0.25", "cifar10_resnet20.safetensors"


def write_inputs(data: Path, scratch: Path, trials: list[dict[str, Any]]) -> None:
    """RAW, the test images and the setups by name."""
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
    setups = [
        {
            "target": name(trial["target_index"], trial["target_class"]),
            "poison_class": unpack.CLASSES[trial["base_class"]],
            "bases": [name(place, trial["base_class"]) for place in trial["base_indices"]],
        }
        for trial in trials
    ]
    (scratch / "setups.json").write_text(json.dumps(setups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--adaptive", action="store_true")
    asked = parser.parse_args()
    trials = json.loads((asked.data / "poison_setups_cifar10.json").read_text())["transfer_learning"][FIRST:]
    if not (asked.scratch / "setups.json").exists():
        write_inputs(asked.data, asked.scratch, trials[: asked.targets])
    out = asked.scratch / ("adaptive" if asked.adaptive else "audit")
    try:
        audit(
            asked.scratch / "raw",
            out,
            test=asked.scratch / "test",
            setups=asked.scratch / "setups.json",
            extractor="cifar-resnet20",
            weights=asked.data / WEIGHTS,
            sigma=SIGMAS,
            targets=asked.targets,
            adaptive=asked.adaptive,
            workers=1,
            progress=True,
        )
    except DpcleanError as error:
        sys.exit(str(error))
    told = json.loads((out / "audit.json").read_bytes())
    write_results(
        "audit_adaptive" if asked.adaptive else "audit",
        {"trials": f"{FIRST} to {FIRST + asked.targets - 1}", "sigmas": SIGMAS, "headline": told["headline"]}
        | {"parameters": told["parameters"], "environment": told["environment"], "rows": told["rows"]},
    )
    print(told["headline"])
    for row in told["rows"]:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
