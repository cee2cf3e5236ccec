"""Make a folder of small photographs to try dpclean on: 672 crops of 64 x 64 pixels in 12 class folders.

The photographs come with the scikit-image package (its wheel carries the files; nothing is downloaded).
As its documentation of skimage.data states, they are in the public domain or free to use:

    public domain (NASA, SpaceX)          astronaut, galaxies (hubble_deep_field), rocket
    CC0                                   brick, cameraman (camera), cat (chelsea), coffee, grass, gravel, retina
    no known copyright restrictions       coins (Brooklyn Museum), tissue (ihc, CMMI)

The same crops come out every time. Five of the photographs are grey, and every fourth crop is saved as
JPEG, so that the folder holds what real folders hold.

    python examples/make_demo_photos.py raw
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image, ImageStat

PHOTOGRAPHS = {  # class folder: file in skimage/data
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "cameraman": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
CROPS = 56  # of each photograph
SIDE = 64  # pixels
DULL = 12.0  # standard deviation of the grey levels below which there is nothing to see


def photograph_folder() -> Path:
    """The data folder of the installed scikit-image, found without importing it."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        sys.exit("make_demo_photos: scikit-image is not installed\nhint: pip install 'dpclean[demo]'")
    return Path(package.origin).parent / "data"


def crops(photograph: Image.Image, seed: str) -> Iterator[Image.Image]:
    """Square crops of random place and scale, from one pixel for one up to the whole height, without end."""
    draw = random.Random(seed)
    while True:
        side = round(SIDE * (min(photograph.size) / SIDE) ** draw.random())
        left, top = (draw.randint(0, length - side) for length in photograph.size)
        crop = photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        if ImageStat.Stat(crop.convert("L")).stddev[0] >= DULL:
            yield crop


def make(out: Path) -> int:
    """Write all class folders under out and return the number of images."""
    source = photograph_folder()
    for name, file in PHOTOGRAPHS.items():
        (out / name).mkdir(parents=True)
        with Image.open(source / file) as photograph:
            photograph.load()
        for number, crop in enumerate(islice(crops(photograph, name), CROPS)):
            if number % 4 == 3:
                crop.save(out / name / f"{name}-{number:02d}.jpg", quality=92)
            else:
                crop.save(out / name / f"{name}-{number:02d}.png")
    return len(PHOTOGRAPHS) * CROPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    out: Path = parser.parse_args().out
    if out.exists():
        sys.exit(f"make_demo_photos: '{out}' is already there\nhint: remove it or name another folder")
    unfinished = out.with_name(f".{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    count = make(unfinished)
    unfinished.rename(out)
    print(f"{count} photographs in {len(PHOTOGRAPHS)} classes: {out}")


if __name__ == "__main__":
    main()
