"""A trainer for `dpclean certify --trainer`: the mean image of each class, and for each point the nearest one.

Usage: python trainer.py DATA TEST OUT. The contract is in docs/training.md; put your own training in place of means.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open


def training_images(data: Path) -> tuple[list[str], list[np.ndarray], list[int]]:
    """(class names, images uint8 [H,W,C], labels), from a folder a class or from one shard."""
    shard = data / "data.safetensors"
    if shard.is_file():
        with safe_open(shard, framework="numpy") as file:
            names = json.loads(file.metadata()["class_names"])
            return names, list(file.get_tensor("images")), file.get_tensor("labels").tolist()
    names = sorted(folder.name for folder in data.iterdir())
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((data / name).iterdir())]
    return names, [np.asarray(Image.open(path)) for path, _ in paths], [label for _, label in paths]


def features(image: np.ndarray) -> np.ndarray:
    """8 x 8 colours, of images of any size."""
    small = Image.fromarray(image.squeeze()).convert("RGB").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel()


def main(data: Path, test: Path, out: Path) -> None:
    names, images, labels = training_images(data)
    known = np.stack([features(image) for image in images])
    present = sorted(set(labels))  # with --subsample a class may have no image
    means = np.stack([known[np.array(labels) == label].mean(0) for label in present])
    lines = []
    for path in sorted(test.iterdir()):
        distances = np.square(means - features(np.asarray(Image.open(path)))).sum(1)
        lines.append(f"{path.name}\t{names[present[int(distances.argmin())]]}\n")
    (out / "predictions.tsv").write_text("".join(lines), "utf-8", "surrogateescape")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
