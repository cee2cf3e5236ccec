"""The l2 radius that shares of a training set give, with noise and frozen features, beside what the bound can give.

    python benchmarks/amplified_radius.py DATA SCRATCH --sigma 0.25 --share 0.001 --runs 1000 [--seconds 200]
    python benchmarks/amplified_radius.py DATA SCRATCH --write

DATA holds cifar10_test.zip, cifar10_labels.safetensors, cifar10_resnet20.safetensors and unpack.py. The test images
0-4999 are the training set, 5000-5999 the points. Each run draws its share, noises and denoises what it took with the
bundled denoiser, and fits the head `ridge` to what the last layer of a ResNet-20 reads that was trained on CIFAR-10
train; points are as they are. So much is that of `dpclean certify --extractor`, which does not know this network: the
votes are counted by `dpclean certify --votes`.

Votes are kept in SCRATCH after every few runs, and the same command goes on; after --seconds it stops. --write makes
certificates of what is there and puts results together, with what all runs agreeing would give, which is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine_facts import write_results
from networks import load_classifier
from numpy.typing import NDArray
from safetensors.numpy import save_file
from whole_images import DEVIATION, MEAN, load

from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.limits import unanimous
from dpclean.certificate.parameters import noise_distances
from dpclean.certificate.whole_images import word_of
from dpclean.certify.external_votes import certify_votes
from dpclean.data.features import unit_rows
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.noise.keys import key_from_seed
from dpclean.noise.membership import members
from dpclean.train.ridge import Ridge, fit, votes

IMAGES, POINTS, CLASSES, ALPHA = 5000, slice(5000, 6000), 10, "0.001"
VALUES = IMAGES * 32 * 32 * 3
SIGMAS, SHARES, CEILINGS = ("0.25", "0.5", "1"), ("0.02", "0.001"), (1000, 10_000)
# of 32 px images: l2 distance of one image by 16 levels, of 500 by 8, of 500 by 16
ATTACKS = {"1 by 16 levels": (1, 16), "500 by 8": (500, 8), "500 by 16": (500, 16)}
TOGETHER = 10  # runs between two looks at the clock


def distance(images: int, levels: int) -> float:
    return float(levels / 255 * (images * 32 * 32 * 3) ** 0.5)


class Runs:
    """The votes of runs 1, 2, ..., each a function of its number alone."""

    def __init__(self, data: Path, sigma: str, share: str | None) -> None:
        self.images, self.labels = load(data, "test")
        self.share, self.key = None if share is None else word_of(share), key_from_seed(1, "certify")
        self.denoiser = Denoiser(find_denoiser("natural"), float(sigma), device="cpu")
        self.network, self.seen = load_classifier(data, 20), list[torch.Tensor]()
        self.network.linear.register_forward_pre_hook(lambda _, given: self.seen.append(given[0]))
        self.points = self.rows(list(self.images[POINTS]))

    def rows(self, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            inputs = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
            self.network((inputs - MEAN) / DEVIATION)
        return unit_rows(self.seen.pop().numpy())

    def cast(self, number: int) -> NDArray[np.int32]:
        inside = np.arange(IMAGES) if self.share is None else members(self.key, number, self.share, IMAGES)
        if not len(inside):
            return np.full(POINTS.stop - POINTS.start, -1, np.int32)
        pairs = [(int(index), self.images[index]) for index in inside]
        found = {one.index: one.pixels for one in self.denoiser.denoise(pairs, key=self.key, run=number)}
        head = fit(Ridge(), self.rows([found[int(i)] for i in inside]), self.labels[inside], CLASSES)
        row: NDArray[np.int32] = votes([head], self.points)[0]
        return row


def cast(data: Path, place: Path, sigma: str, share: str | None, runs: int, seconds: float) -> None:
    """The votes of runs 1..runs into a file, as far as the time goes."""
    there = np.load(place) if place.exists() else np.empty((0, POINTS.stop - POINTS.start), np.int32)
    doing, begun = Runs(data, sigma, share), time.perf_counter()
    first = len(there)
    while len(there) < runs and time.perf_counter() < begun + seconds:
        numbers = range(len(there) + 1, min(len(there) + TOGETHER, runs) + 1)
        there = np.concatenate([there, *(doing.cast(number)[None] for number in numbers)])
        np.save(place.with_suffix(".part.npy"), there)
        place.with_suffix(".part.npy").replace(place)
    done = len(there) - first
    print(f"{place.name}: {len(there)} of {runs} runs, {(time.perf_counter() - begun) / max(1, done):.2f} s a run")


def ceiling(sigma: str, share: str | None, runs: int) -> float:
    """The radius of a point on which all runs agree: arithmetic."""
    settings = ClaimSettings(
        runs=runs,
        level=Fraction(ALPHA),
        sigma=Fraction(sigma),
        tau=Fraction(noise_distances(sigma, VALUES)["tau"]),
        share=None if share is None else word_of(share),
        images=IMAGES,
    )
    return float(unanimous(find_bound(DEFAULT_BOUND), settings))


def measured(place: Path, sigma: str, share: str | None, labels: NDArray[np.int64], scratch: Path) -> dict[str, Any]:
    """What a certificate of the votes in a file says."""
    cast_votes, out = np.load(place), scratch / "certificate"
    save_file({"votes": cast_votes, "labels": labels}, scratch / "votes.safetensors")
    certify_votes(
        scratch / "votes.safetensors",
        out,
        runs=len(cast_votes),
        classes=CLASSES,
        sigma=sigma,
        alpha=ALPHA,
        tau=noise_distances(sigma, VALUES)["tau"],
        subsample_word=None if share is None else word_of(share),
        overwrite=True,
    )
    points = json.loads((out / "certificate.json").read_text())["points"]
    radii = np.array([float(p["certified_radius"]) if p["class"] == p["label"] else -1.0 for p in points])
    reaches = {name: distance(*attack) for name, attack in ATTACKS.items()}
    return {
        "runs": len(cast_votes),
        "right by the vote": round(float((plurality(cast_votes) == labels).mean()), 4),
        "certified and right": round(float((radii >= 0).mean()), 4),
        "largest radius": max(0.0, float(radii.max())),
        "median radius of those": round(float(np.median(radii[radii >= 0])), 4) if (radii >= 0).any() else None,
        **{name: round(float((radii >= reach).mean()), 4) for name, reach in reaches.items()},
        "curve": {f"{r:g}": round(float((radii >= r).mean()), 4) for r in (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)},
        "ceiling at so many runs": ceiling(sigma, share, len(cast_votes)),
        "plain ceiling at so many runs": ceiling(sigma, None, len(cast_votes)),
    }


def plurality(cast_votes: NDArray[np.int32]) -> NDArray[np.int64]:
    counts = np.stack([(cast_votes == label).sum(axis=0) for label in range(CLASSES)])
    winners: NDArray[np.int64] = counts.argmax(axis=0)
    return winners


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--sigma", choices=SIGMAS)
    parser.add_argument("--share", choices=(*SHARES, "all"))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    asked.scratch.mkdir(exist_ok=True)
    data = asked.data.resolve()
    if not asked.write:
        share = None if asked.share == "all" else asked.share
        place = asked.scratch / f"votes-{asked.sigma}-{asked.share}.npy"
        cast(data, place, asked.sigma, share, asked.runs, asked.seconds)
        return
    labels = load(data, "test")[1][POINTS]
    cases = [
        measured(place, sigma, None if share == "all" else share, labels, asked.scratch)
        | {"sigma": sigma, "share": share}
        for sigma in SIGMAS
        for share in (*SHARES, "all")
        if (place := asked.scratch / f"votes-{sigma}-{share}.npy").exists()
    ]
    ceilings = [
        {"sigma": sigma, "runs": runs, "plain": ceiling(sigma, None, runs)}
        | {share: ceiling(sigma, share, runs) for share in SHARES}
        for sigma in SIGMAS
        for runs in CEILINGS
    ]
    attacks = {name: round(distance(*attack), 2) for name, attack in ATTACKS.items()}
    found = {"images": IMAGES, "points": len(labels), "alpha": ALPHA, "bound": DEFAULT_BOUND, "attacks": attacks}
    write_results("amplified_radius", found | {"cases": cases, "ceilings": ceilings})
    print(json.dumps({"cases": cases, "ceilings": ceilings}, indent=1))


if __name__ == "__main__":
    main()
