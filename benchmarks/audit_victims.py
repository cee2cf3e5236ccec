"""Attacks on other victims than a head on the attacker's own ResNet-20, by `dpclean audit`.

    python benchmarks/audit_victims.py DATA SCRATCH MODEL [CASE ...] [--targets N]

DATA is the data folder of make_inputs.py. MODEL is what `dpclean train --recipe tiny` made of Tiny-ImageNet (15,000
images, 200 classes, averaged down to 32 px): it has seen nothing of CIFAR-10. MODEL-16, beside it, is the same by the
recipe tiny@16. Attacks on frozen features are those of audit.py: its RAW of 2,500 images and its trials. Attacks on all
weights have a RAW that the machine carries: 300 images of each of three classes of CIFAR-10, of which a tenth are
poisons, or, for gradient matching at 16 px, 1,000 of each of two classes near to each other, of which a tenth are too;
and 200 of each class to test on. Those at 64 px have the first 40 classes of Tiny-ImageNet, 65 images of each and 10 to
test on, and a network that was trained on ImageNet (the extra `extractor`), of which these images are a part. One
thread. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from audit import FIRST, TRIALS, write_inputs
from audit_cases import CRAFTING, folder_of, kept, run_cases
from make_inputs import load_unpack
from PIL import Image

from dpclean.audit.job import audit

POISONS, NEAR_POISONS = 90, 200
TEN, THREE, NEAR, TINY = "ten classes", "three classes", "two near classes", "Tiny-ImageNet at 64 px"
CLASSES = {THREE: ("airplane", "automobile", "frog"), NEAR: ("cat", "dog")}
EACH = {THREE: 300, NEAR: 1000}
TESTED = {THREE: slice(0, 200), NEAR: slice(200, 400)}  # settings were chosen on the first ones
TINY_CLASSES, TINY_EACH = 40, 65  # the first ones by name; images of each, the rest are tested
RESNET20, RESNET56 = "cifar10_resnet20.safetensors", "cifar10_resnet56.safetensors"


def cases(data: Path, model: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Of each its images, and what it asks for."""
    frozen = {"sigma": "0.1,0.25"}
    learning = {"victim": "fine-tuned", "extractor": str(model), "poisons": POISONS, "sigma": "0.1"}
    attacker = {"surrogate": "cifar-resnet20", "surrogate_weights": data / RESNET20}
    imagenet = {"extractor": "efficientnet-lite0", "targets": 10, "sigma": "0.1"}
    return {
        "bullseye-polytope, Tiny-ImageNet extractor": (TEN, {"extractor": str(model), **frozen}),
        "bullseye-polytope, ResNet-20 against ResNet-56": (
            TEN,
            {"extractor": "cifar-resnet56", "weights": data / RESNET56, **attacker, **frozen},
        ),
        "bullseye-polytope, Tiny-ImageNet at 64 px": (TINY, {**imagenet, "sigma": "0.1,0.25"}),
        "bullseye-polytope, Tiny-ImageNet at 64 px, adaptive": (TINY, {**imagenet, "targets": 3, "adaptive": True}),
        "bullseye-polytope, fine-tuned": (THREE, learning),
        "gradient-matching, fine-tuned": (THREE, {"attack": "gradient-matching", **learning}),
        "gradient-matching, fine-tuned at 16 px": (
            NEAR,
            {"attack": "gradient-matching", **learning, "extractor": f"{model}-16", "poisons": NEAR_POISONS},
        ),
        "gradient-matching, from scratch at 16 px": (
            NEAR,
            {"attack": "gradient-matching", "victim": "tiny@16", "poisons": NEAR_POISONS, "sigma": "0.1"},
        ),
        "sleeper-agent, fine-tuned": (THREE, {"attack": "sleeper-agent", **learning}),
    }


def write_few_classes(kind: str, data: Path, scratch: Path) -> None:
    """RAW, the first ones of each class, and the test images."""
    unpack = load_unpack(data)
    for folder, part, these in (("raw", "train", slice(EACH[kind])), ("test", "test", TESTED[kind])):
        images, labels = unpack.load_cifar10(part)
        for name in CLASSES[kind]:
            for place in np.flatnonzero(labels == unpack.CLASSES.index(name))[these].tolist():
                path = scratch / folder / name / f"{place:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[place]).save(path)


def write_tiny_imagenet(data: Path, scratch: Path) -> None:
    """RAW and the test images as they are in the archives, files of JPEG."""
    unpack = load_unpack(data)
    for archive in ("tinyimagenet_train.zip", "tinyimagenet_train2.zip"):
        unpack.unpack_zip(data / archive, scratch / "all", None)
    for folder in sorted(path for path in (scratch / "all").iterdir() if path.is_dir())[:TINY_CLASSES]:
        for number, path in enumerate(sorted(folder.iterdir())):
            target = scratch / ("raw" if number < TINY_EACH else "test") / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    shutil.rmtree(scratch / "all")


def inputs(images: str, data: Path, scratch: Path) -> dict[str, Any]:
    """What `audit` is given beside the case."""
    folder = scratch / images.replace(" ", "-")
    if images == TEN and not (folder / "setups.json").exists():
        trials = json.loads((data / "poison_setups_cifar10.json").read_text())["transfer_learning"][FIRST:]
        write_inputs(data, folder, trials[:TRIALS])
    if images in CLASSES and not (folder / "test").exists():
        write_few_classes(images, data, folder)
    if images == TINY and not (folder / "test").exists():
        write_tiny_imagenet(data, folder)
    setups = {"setups": folder / "setups.json"} if images == TEN else {}
    return {"raw": folder / "raw", "test": folder / "test", **setups}


def measured(name: str, data: Path, scratch: Path, model: Path, targets: int) -> dict[str, Any]:
    """What the table says of a case; the whole of it stays in SCRATCH."""
    images, asked = cases(data, model)[name]
    targets = asked.pop("targets", targets)
    out = folder_of(scratch, name, targets)
    given: dict[str, Any] = {"workers": 1, "threads": 1, "device": "cpu", "progress": True, "targets": targets}
    audit(out=out, **inputs(images, data, scratch), **given, **asked)
    found = kept(out, "remarks")
    crafting = found.pop(CRAFTING)
    return {"images of": images, "crafting, processor s a target": crafting["no defence"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(map(repr, cases(Path(), Path()))))
    parser.add_argument("--targets", type=int, default=20)
    asked = parser.parse_args()
    run_cases(
        "audit_victims",
        asked.cases or cases(asked.data, asked.model),
        lambda name: measured(name, asked.data, asked.scratch, asked.model, asked.targets),
    )


if __name__ == "__main__":
    main()
