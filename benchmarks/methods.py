"""How the methods compare, and how their steps should lie: quality, a classifier's agreement, cost.

    python benchmarks/methods.py DATA [--part spacing|table] [--seconds 200] [--device cpu]

spacing: steps even in the timestep, as the methods have them, against steps even in the logarithm of signal to noise,
on images that are not held out: the first of CIFAR-10 train, and the middles of BSDS train photos. table: every
method as it is, on the first images of CIFAR-10 test and the middles of the CBSD68 photos, which decided nothing.
Classifiers: ResNet-56 and ResNet-20, trained on clean CIFAR-10. Agreement is the share of images whose class is that of
the clean image. What is done is kept in benchmarks/inputs, so a call that was ended goes on; --seconds ends it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from denoiser_quality import KEY, read_photos
from machine_facts import REPOSITORY, write_results
from make_inputs import load_unpack
from networks import CifarResnet, load_classifier
from skimage.metrics import structural_similarity

from dpclean.denoise import schedule
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.denoise.methods import ddim, sde
from dpclean.denoise.schedule import NoiseLevel

NAME = "methods"
KEPT = REPOSITORY / "benchmarks" / "inputs"  # rows with the values of each image
SIGMAS = (0.1, 0.25, 0.5)
COMPARED = ("ddim:2", "ddim:4", "ddim:8", "sde:8", "sde:20")
ALL = ("one-step", *COMPARED, "sde:100")
BATCH_PIXELS = 64 * 32 * 32
EDGE = 64  # of the middle of a photo
Pixels = np.ndarray


class Set(NamedTuple):
    """Images of one kind. few: how many of them the dear methods get."""

    name: str
    images: list[Pixels]
    labels: np.ndarray | None
    few: dict[str, int]


def middles(photos: Sequence[Pixels]) -> list[Pixels]:
    corners = [((p.shape[0] - EDGE) // 2, (p.shape[1] - EDGE) // 2) for p in photos]
    return [p[top : top + EDGE, left : left + EDGE] for p, (top, left) in zip(photos, corners, strict=True)]


def read_sets(data: Path, part: str) -> Iterator[Set]:
    split = {"spacing": "train", "table": "test"}[part]
    many, photos = {"spacing": (300, 16), "table": (200, 16)}[part]
    few, few_photos = {
        "spacing": ({"sde:20": 100}, dict[str, int]()),
        "table": ({"sde:20": 100, "sde:100": 32}, {"sde:20": 8, "sde:100": 4}),
    }[part]
    images, labels = load_unpack(data).load_cifar10(split)
    yield Set(f"CIFAR-10 {split}", list(images[:many]), labels[:many].astype(np.int64), few)
    archive = {"train": "bsds_train.zip", "test": "bsds_test_cbsd68.zip"}[split]
    name, found = {"train": "BSDS train", "test": "CBSD68"}[split], middles(read_photos(data, archive)[:photos])
    yield Set(name, found, None, few_photos)


def even_in_log_snr(start: NoiseLevel, alphas_cumprod: np.ndarray, steps: int) -> Sequence[NoiseLevel]:
    """From the images' own level down to that of timestep 0, which is not evaluated, as with `evenly_spaced`."""
    if start.timestep == 0:
        return (start,)
    last = schedule.at(alphas_cumprod, 0.0).sigma
    sigmas = (start.sigma * (last / start.sigma) ** (step / steps) for step in range(1, steps))
    return (start, *(schedule.match(alphas_cumprod, sigma) for sigma in sigmas))


@contextmanager
def spaced(spacing: str) -> Iterator[None]:
    modules: tuple[Any, ...] = (ddim, sde)
    before = [module.evenly_spaced for module in modules]
    try:
        for module in modules if spacing == "log-SNR" else ():
            module.evenly_spaced = even_in_log_snr
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.evenly_spaced = function


@torch.inference_mode()
def classes(network: CifarResnet, images: Sequence[Pixels]) -> np.ndarray:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.from_numpy(np.stack(images)).float() / 255 - mean) / deviation
    return torch.cat([network(some.permute(0, 3, 1, 2)).argmax(1) for some in x.split(250)]).numpy()


def measured(
    some: Set, method: str, spacing: str, sigma: float, networks: dict[str, CifarResnet], device: str
) -> dict[str, Any]:
    """One row: values of each image, and what it cost."""
    count = some.few.get(method, len(some.images))
    clean = some.images[:count]
    with spaced(spacing):
        denoiser = Denoiser(find_denoiser("natural"), sigma, method=method, device=device, batch_pixels=BATCH_PIXELS)
    clock = time.process_time if denoiser.device.type == "cpu" else time.perf_counter
    begun = clock()
    found = [r.pixels for r in sorted(denoiser.denoise(enumerate(clean), key=KEY), key=lambda r: r.index)]
    seconds = clock() - begun
    errors = [((a.astype(np.float64) - b) ** 2).mean() for a, b in zip(found, clean, strict=True)]
    row: dict[str, Any] = {
        "set": some.name, "method": method, "spacing": spacing, "sigma": sigma, "images": count,
        "steps": denoiser.evaluations_a_sample, "seconds": seconds,
        "device": denoiser.device_kind, "dtype": denoiser.dtype,
        "psnr": [round(10 * math.log10(255**2 / error), 3) for error in errors],
        "ssim": [
            round(float(structural_similarity(a, b, win_size=7, channel_axis=2, data_range=255)), 4)
            for a, b in zip(clean, found, strict=True)
        ],
    }  # fmt: skip
    if some.labels is not None:
        told = {name: (classes(network, found), classes(network, clean)) for name, network in networks.items()}
        row["agrees"] = {name: (a == b).astype(int).tolist() for name, (a, b) in told.items()}
        row["right"] = {name: float((a == some.labels[:count]).mean()) for name, (a, _) in told.items()}
    return row


def summary(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row with means in place of the images' values, and how far they are from those of one-step on these images."""
    key = (row["set"], row["sigma"], "one-step")
    apart: dict[str, list[float]] = {}
    for one in (other for other in rows if (other["set"], other["sigma"], other["method"]) == key):
        pairs = {what: (row[what], one[what]) for what in ("psnr", "ssim")}
        pairs |= {what: (values, one["agrees"][what]) for what, values in row.get("agrees", {}).items()}
        count = row["images"]
        for what, (ours, theirs) in pairs.items():
            apart[what] = [round(value, 4) for value in difference(ours, theirs[:count])]
    means = {key: round(float(np.mean(row[key])), 4) for key in ("psnr", "ssim")}
    agrees = {network: round(float(np.mean(values)), 4) for network, values in row.get("agrees", {}).items()}
    more = {**({"agrees": agrees} if agrees else {}), **({"to_one_step": apart} if apart else {})}
    return {**row, **means, **more, "seconds": round(row["seconds"], 2)}


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean of the images' differences, and its standard error."""
    apart = np.asarray(one, float) - np.asarray(other, float)  # of the same images with the same noise
    return float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Even in log-SNR less even in the timestep, by set, method and sigma."""
    by = {(r["set"], r["method"], r["sigma"], r["spacing"]): r for r in rows}
    found = []
    for name, method, sigma, spacing in by:
        if spacing != "log-SNR" or (name, method, sigma, "timestep") not in by:
            continue
        even, log = by[name, method, sigma, "timestep"], by[name, method, sigma, "log-SNR"]
        row = {"set": name, "method": method, "sigma": sigma, "images": even["images"]}
        pairs = {"psnr": (even["psnr"], log["psnr"])}
        for network, values in even.get("agrees", {}).items():
            pairs[f"agreement, {network}"] = values, log["agrees"][network]
        for what, (of_even, of_log) in pairs.items():
            mean, error = difference(of_log, of_even)
            row[what] = {
                "timestep": round(float(np.mean(of_even)), 4), "log-SNR": round(float(np.mean(of_log)), 4),
                "difference": round(mean, 4), "standard error": round(error, 4),
            }  # fmt: skip
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--part", choices=("spacing", "table"), default="table")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after so many")
    parser.add_argument("--set", help="only this one, as the result file names it")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    begun = time.monotonic()
    name = f"{NAME}_{a.part}"
    path = KEPT / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(r["set"], r["method"], r["spacing"], r["sigma"]) for r in rows}
    networks = {f"ResNet-{layers}": load_classifier(a.data, layers) for layers in (56, 20)}
    methods, spacings = (COMPARED, ("timestep", "log-SNR")) if a.part == "spacing" else (ALL, ("timestep",))
    for some in read_sets(a.data.resolve(), a.part):
        if a.set not in (None, some.name):
            continue
        for method, sigma, spacing in itertools.product(methods, SIGMAS, spacings):
            if (some.name, method, spacing, sigma) in done:
                continue
            if time.monotonic() - begun > a.seconds:
                print("not done yet: the same command goes on")
                return
            row = measured(some, method, spacing, sigma, networks, a.device)
            rows.append(row)
            agrees = {network: round(float(np.mean(values)), 3) for network, values in row.get("agrees", {}).items()}
            print(some.name, method, sigma, spacing, f"{np.mean(row['psnr']):.2f} dB", agrees, flush=True)
            path.write_text(json.dumps({"rows": rows}))
            write_results(name, {"rows": [summary(row, rows) for row in rows], "compared": compared(rows)})
    print(write_results(name, {"rows": [summary(row, rows) for row in rows], "compared": compared(rows)}))


if __name__ == "__main__":
    main()
