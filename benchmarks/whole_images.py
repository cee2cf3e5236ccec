"""Certified accuracy against whole images that an attacker put in, changed or took away, with frozen features.

    python benchmarks/whole_images.py DATA SCRATCH [--only resnet20|imagenet] [--runs 10000]

DATA holds cifar10_{train,test}.zip, cifar10_labels.safetensors, cifar10_resnet20.safetensors and unpack.py. Two cases,
each from files of features to a certificate by the command line, in SCRATCH:

resnet20   The test images 0-4999 are the training set, 5000-5999 the points. Features: what the last layer of a
           ResNet-20 reads that was trained on CIFAR-10 train. 25 images a run.
imagenet   All 50,000 training images, the test images 0-999 are the points. Features: efficientnet-lite0 at 112 px,
           with its ImageNet weights, by `dpclean features`. 80 images a run.

What was chosen was chosen on other images: the head and its penalty on the test images 6000-9999 (resnet20) and on the
first 10,000 training images (imagenet), never on points.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine_facts import RESULTS, write_results
from networks import load_classifier
from safetensors.numpy import save_file

DPCLEAN = [sys.executable, "-m", "dpclean"]
CLASSES = json.dumps("airplane automobile bird cat deer dog frog horse ship truck".split())
CASES: dict[str, dict[str, Any]] = {
    "resnet20": {"share": "0.005", "changed": (0, 10, 25, 50), "inserted": (50, 100, 250)},
    "imagenet": {"share": "0.0016", "changed": (0, 62, 125), "inserted": (125, 250, 500)},
}
MEAN, DEVIATION = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def load(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    spec = importlib.util.spec_from_file_location("unpack", data / "unpack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = module.load_cifar10(split)
    return images, labels.astype(np.int64)


def resnet20(data: Path, scratch: Path) -> tuple[Path, Path]:
    """Files of features by the one way that is open to everybody: a network's output, saved with its labels."""
    images, labels = load(data, "test")
    network, rows = load_classifier(data, 20), []
    network.linear.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    with torch.inference_mode():
        for start in range(0, 6000, 500):
            pixels = torch.from_numpy(images[start : start + 500]).permute(0, 3, 1, 2).float() / 255
            network((pixels - MEAN) / DEVIATION)
    features = torch.cat(rows).numpy()
    return tuple(  # type: ignore[return-value]
        write(scratch / f"resnet20-{name}.safetensors", features=features[part], labels=labels[:6000][part])
        for name, part in (("train", slice(0, 5000)), ("points", slice(5000, 6000)))
    )


def imagenet(data: Path, scratch: Path) -> tuple[Path, Path]:
    files = []
    for split, count in (("train", 50_000), ("test", 1000)):
        shards, out = scratch / f"cifar10-{split}", scratch / f"imagenet-{split}.safetensors"
        if not out.exists():
            images, labels = load(data, split)
            shards.mkdir(exist_ok=True)
            write(shards / "0.safetensors", images=images[:count], labels=labels[:count])
            call("features", str(shards), "--extractor", "efficientnet-lite0@112", "--out", str(out))
        files.append(out)
    return files[0], files[1]


def write(path: Path, **tensors: np.ndarray) -> Path:
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, {"class_names": CLASSES})
    return path


def call(*arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([*DPCLEAN, *arguments, "--quiet"], check=True)
    return time.perf_counter() - begun


def measure(name: str, train: Path, points: Path, scratch: Path, runs: int) -> dict[str, Any]:
    case, out = CASES[name], scratch / f"certificate-{name}"
    seconds = call(
        *("certify", "--features", str(train), "--test-features", str(points), "--subsample", case["share"]),
        *("--runs", str(runs), "--out", str(out), "--overwrite"),
    )
    verified = call("verify", str(out))
    certificate = json.loads((out / "certificate.json").read_text())

    def accuracy(kind: str, images: int) -> float:
        right = [p["class"] == p["label"] and p[kind] >= images for p in certificate["points"]]
        return float(round(sum(right) / len(right), 4))

    terms = certificate["terms"]
    return {
        "images": terms["raw"]["images"],
        "points": terms["points"],
        "runs": runs,
        "share": case["share"],
        "images a run": round(terms["raw"]["images"] * float(case["share"])),
        "recipe": terms["recipe"],
        "alpha": terms["alpha"],
        "bound": terms["bound"],
        "changed": {str(images): accuracy("images_changed", images) for images in case["changed"]},
        "inserted": {str(images): accuracy("images_inserted", images) for images in case["inserted"]},
        "certify, s": round(seconds, 1),
        "verify, s": round(verified, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--runs", type=int, default=10_000)
    asked = parser.parse_args()
    asked.scratch.mkdir(exist_ok=True)
    path = RESULTS / "whole_images.json"
    results = json.loads(path.read_text())["cases"] if path.exists() else {}
    for name in [asked.only] if asked.only else CASES:
        files = {"resnet20": resnet20, "imagenet": imagenet}[name](asked.data.resolve(), asked.scratch)
        results[name] = measure(name, *files, asked.scratch, asked.runs)
        print(json.dumps({name: results[name]}, indent=1))
    write_results("whole_images", {"cases": results})


if __name__ == "__main__":
    main()
