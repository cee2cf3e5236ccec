"""Certified accuracy against whole images: parts with both elections, and random shares, on one training set.

    python benchmarks/partitions.py TRAIN TEST --out WORK [--images 10000] [--points 1000] [--partitions 50]
        [--share 0.02] [--runs 200] [--recipe tiny] [--device cpu] [--features NAME TRAIN TEST]

TRAIN and TEST are what `certify` takes, of CIFAR-10 for the figures beside the published ones; of each the first images
of every class are taken. WORK keeps the folders and the certificates: started again, it goes on there. Plurality and
run-off are read from the same models. --features, perhaps more than once: files of rows, such as
benchmarks/whole_images.py leaves, of which as many parts are certified too. The recipe was chosen for its cost, and
nothing was chosen on the points. Published are the figures of Rezaei et al. 2023 for 50,000 images and K = 50, of
which a touched part counts a changed image as two unless it keeps its place.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine_facts import write_results
from PIL import Image

from dpclean.certificate.elections import elections
from dpclean.certificate.votes import read_votes
from dpclean.data.dataset import read_images

REACHES = (0, 5, 10)  # touched parts, or images
PUBLISHED = {
    "DPA": (70.2, 58.1, 46.4),
    "DPA with run-off": (70.2, 59.9, 49.2),
    "FA with run-off, 1,600 models": (70.3, 62.6, 52.6),
}


def take(source: Path, folder: Path, count: int) -> None:
    """The first count images of a data set, as many of each class, as a folder a class; names tell their places."""
    if folder.exists():
        return
    images = read_images(source)
    for label, name in enumerate(images.classes):
        (folder / name).mkdir(parents=True)
        for place in np.flatnonzero(images.labels == label)[: count // len(images.classes)].tolist():
            Image.fromarray(images.pixels[place]).save(folder / name / f"{images.indices[place]:05d}.png")


def certify(out: Path, arguments: Sequence[str | Path]) -> float:
    """Seconds that this call took; a certificate that is there is left as it is."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "dpclean", "certify", *map(str, arguments), "--out", str(out), "--quiet"]
    if (code := subprocess.run(command).returncode) != 0:
        sys.exit(f"partitions: certify ended with {code}")
    return time.perf_counter() - begun


def seconds_of_a_run(arguments: Sequence[str | Path]) -> float:
    """By a dry run: what one of the runs takes on one core."""
    command = [sys.executable, "-m", "dpclean", "certify", *map(str, arguments), "--dry-run", "--json", "--out", "none"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return round(float(sum(told["seconds_by_part"].values())), 2)


def of_elections(out: Path) -> dict[str, dict[str, list[float]]]:
    """Certified accuracy by touched parts and by images changed at will, of both elections by the same models."""
    votes = read_votes(out / "votes.safetensors")
    assert votes.labels is not None and votes.rankings is not None
    found = {}
    for name, rankings in (("plurality", None), ("run-off", votes.rankings)):
        made = list(elections(votes.votes, rankings, len(votes.parameters.classes)))
        right = np.array([election.winner for election in made]) == votes.labels
        held = np.array([election.withstands for election in made])
        found[name] = {
            "touched_parts": [percent(right & (held >= reach)) for reach in REACHES],
            "images_changed": [percent(right & (held // 2 >= reach)) for reach in REACHES],
        }
    return found


def of_images(out: Path) -> dict[str, list[float]]:
    """Certified accuracy by images that were inserted and changed; of a point that abstains none."""
    points = json.loads((out / "certificate.json").read_text())["points"]
    right = np.array([point["class"] == point["label"] for point in points])
    return {
        kind: [percent(right & np.array([point[kind] >= reach for point in points])) for reach in REACHES]
        for kind in ("images_inserted", "images_changed")
    }


def percent(held: Any) -> float:
    return round(100 * float(np.mean(held)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=50)
    parser.add_argument("--share", default="0.02")
    parser.add_argument("--runs", type=int, default=200, help="on random shares; 0 for none")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--features", nargs=3, action="append", default=[], metavar=("NAME", "TRAIN", "TEST"))
    a = parser.parse_args()
    raw, test = a.out / "train", a.out / "test"
    take(a.train, raw, a.images)
    take(a.test, test, a.points)
    how = (raw, "--test", test, "--recipe", a.recipe, "--workers", a.workers, "--device", a.device)
    certify(a.out / "parts", [*how, "--partitions", a.partitions])
    seconds = {"a run from scratch": seconds_of_a_run([*how, "--partitions", a.partitions])}
    by_parts = {f"{a.images:,} images from scratch": of_elections(a.out / "parts")}
    for number, (name, train, points) in enumerate(a.features):
        out, rows = a.out / f"features-{number}", ("--features", train, "--test-features", points)
        seconds[f"all of {name}"] = round(certify(out, [*rows, "--partitions", a.partitions, "--overwrite"]), 1)
        by_parts[name] = of_elections(out)
    results: dict[str, Any] = {"by parts": by_parts}
    if a.runs:
        shares = (*how, "--sigma", "0", "--subsample", a.share, "--runs", a.runs)
        certify(a.out / "shares", shares)
        results["by shares"] = of_images(a.out / "shares")
    asked = {
        name: getattr(a, name)
        for name in ("images", "points", "partitions", "share", "runs", "recipe", "workers", "device")
    }
    path = write_results(
        "partitions",
        {**asked, "reaches": REACHES, **results, "published": PUBLISHED, "seconds": seconds},
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
