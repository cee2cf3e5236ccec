"""Make a small data set of real photographs to certify: 6 classes, 20 training and 5 test crops of 24 x 24 pixels each.

The photographs are some of those of make_demo_photos.py, with the same sources and terms. A class is one photograph:
its training crops come from the left two thirds, its test crops from the right third, so the pieces do not overlap
(making one smaller looks a few pixels past its edges). That makes an easy task for a small data set, and shows how a
certificate is made, not how good a classifier can be.

    python examples/make_certify_photos.py small
    dpclean certify ./small --sigma 0.25 --runs 100
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from make_demo_photos import PHOTOGRAPHS, photograph_folder
from PIL import Image, ImageStat

CLASSES = ("brick", "cat", "coffee", "coins", "galaxies", "tissue")
SIDE = 24  # pixels
LARGEST = 4  # times SIDE: the largest piece of a photograph that becomes a crop
CROPS = {"train": 20, "test": 5}
PART = {"train": (0.0, 2 / 3), "test": (2 / 3, 1.0)}  # of the photograph's width
DULL = 12.0  # standard deviation of the grey levels below which there is nothing to see


def crops(photograph: Image.Image, part: tuple[float, float], seed: str) -> Iterator[Image.Image]:
    """Square crops of random place and scale from an upright strip of a photograph, without end."""
    draw = random.Random(seed)
    first, last = (round(share * photograph.width) for share in part)
    largest = min(LARGEST * SIDE, last - first, photograph.height)
    while True:
        side = draw.randint(SIDE, largest)
        left, top = draw.randint(first, last - side), draw.randint(0, photograph.height - side)
        crop = photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        if ImageStat.Stat(crop.convert("L")).stddev[0] >= DULL:
            yield crop


def make(out: Path) -> int:
    """Write out/train and out/test and return the number of images."""
    for name in CLASSES:
        with Image.open(photograph_folder() / PHOTOGRAPHS[name]) as opened:
            photograph = opened.convert("RGB")
        for split, count in CROPS.items():
            (out / split / name).mkdir(parents=True)
            for number, crop in enumerate(islice(crops(photograph, PART[split], f"{split}/{name}"), count)):
                crop.save(out / split / name / f"{name}-{number:02d}.png")
    return len(CLASSES) * sum(CROPS.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    out: Path = parser.parse_args().out
    if out.exists():
        sys.exit(f"make_certify_photos: '{out}' is already there\nhint: remove it or name another folder")
    unfinished = out.with_name(f".{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    count = make(unfinished)
    unfinished.rename(out)
    print(f"{count} photographs in {len(CLASSES)} classes: {out}/train and {out}/test")


if __name__ == "__main__":
    main()
