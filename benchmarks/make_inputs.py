"""Make the real inputs of the benchmarks from a data folder: the same bytes every time.

The data folder holds CIFAR-10, Tiny-ImageNet and BSDS as zip files and an unpack.py beside them that reads them.

    python benchmarks/make_inputs.py DATA benchmarks/inputs

makes, each only where it is not there yet:

    cifar10_test/CLASS/NNNNN.png          10,000 images of 32 x 32, numbered in the original order
    cifar10_train/train-0000K.safetensors 5 shards of 10,000: images uint8 [N,32,32,3], labels int64 [N],
                                          index int64 [N] (place in the original order), class_names
    tinyimagenet/CLASS/*.jpg              15,000 photos of 64 x 64 in 200 classes
    bsds/{train,test}/*.jpg               268 photos of 481 x 321
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

SHARD = 10_000


def load_unpack(data: Path) -> ModuleType:
    """The data folder's own reader."""
    spec = importlib.util.spec_from_file_location("unpack", data / "unpack.py")
    if spec is None or spec.loader is None or not (data / "unpack.py").is_file():
        raise SystemExit(f"make_inputs: '{data}' has no unpack.py\nhint: name the data folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cifar10_test(unpack: ModuleType, out: Path) -> None:
    images, labels = unpack.load_cifar10("test")
    for name in unpack.CLASSES:
        (out / name).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(out / unpack.CLASSES[label] / f"{i:05d}.png", compress_level=1)


def cifar10_train(unpack: ModuleType, out: Path) -> None:
    images, labels = unpack.load_cifar10("train")
    index = np.arange(len(images), dtype=np.int64)
    out.mkdir(parents=True)
    for number, first in enumerate(range(0, len(images), SHARD)):
        rows = slice(first, first + SHARD)
        tensors = {"images": images[rows], "labels": labels[rows].astype(np.int64), "index": index[rows]}
        metadata = {"class_names": json.dumps(unpack.CLASSES)}
        save_file(tensors, out / f"train-{number:05d}.safetensors", metadata)


def tinyimagenet(unpack: ModuleType, out: Path) -> None:
    for archive in ("tinyimagenet_train.zip", "tinyimagenet_train2.zip"):
        unpack.unpack_zip(unpack.HERE / archive, out, None)
    (out / "classes.txt").unlink(missing_ok=True)


def bsds(unpack: ModuleType, out: Path) -> None:
    unpack.unpack_zip(unpack.HERE / "bsds_train.zip", out / "train", None)
    unpack.unpack_zip(unpack.HERE / "bsds_test_cbsd68.zip", out / "test", None)


PARTS: tuple[Callable[[ModuleType, Path], None], ...] = (cifar10_test, cifar10_train, tinyimagenet, bsds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the archives and their unpack.py")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=[part.__name__ for part in PARTS])
    arguments = parser.parse_args()
    unpack = load_unpack(arguments.data.resolve())
    for part in PARTS:
        finished = arguments.out / part.__name__
        if finished.exists() or part.__name__ not in (arguments.parts or [p.__name__ for p in PARTS]):
            continue
        unfinished = finished.with_name(f".{finished.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        part(unpack, unfinished)
        unfinished.rename(finished)
        print(f"{finished}: {sum(1 for path in finished.rglob('*') if path.is_file())} files")


if __name__ == "__main__":
    main()
