"""What `train --sigma-augment` gains for a model that is shown noised and denoised images.

    python benchmarks/sigma_augment.py DATA [--images 1000] [--points 500] [--sigma 0.25] [--recipe tiny]

Two trainings on the first images of CIFAR-10 train, one as they are, one noised and denoised anew in every epoch; then
the accuracy of both on the first CIFAR-10 test images, clean and noised and denoised once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from machine_facts import write_results
from make_inputs import load_unpack
from safetensors.numpy import save_file

from dpclean.classifier_training.job import train
from dpclean.denoiser_training.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    unpack, rows = load_unpack(a.data.resolve()), {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split, count in (("train", a.images), ("test", a.points)):
            images, labels = unpack.load_cifar10(split)
            tensors = {"images": images[:count].copy(), "labels": labels[:count].astype(np.int64)}
            save_file(tensors, root / f"{split}.safetensors", {"class_names": json.dumps(list(unpack.CLASSES))})
        for name, sigma in (("as they are", None), ("noised anew", a.sigma)):
            out, test = root / name.replace(" ", "-"), root / "test.safetensors"
            made = train(root / "train.safetensors", out, recipe=a.recipe, sigma_augment=sigma, device=a.device)
            found = evaluate("natural", test, sigmas=(a.sigma,), classifier=out, device=a.device)
            assert found.classifier is not None
            rows[name] = {
                "clean": found.classifier.accuracy, "denoised": found.rows[0].accuracy,
                "agreement": found.rows[0].agreement, "seconds": made.seconds,
            }  # fmt: skip
            print(name, rows[name], flush=True)
    said = {"images": a.images, "points": a.points, "sigma": a.sigma, "recipe": a.recipe}
    print(write_results("sigma_augment", {**said, "rows": rows}))


if __name__ == "__main__":
    main()
