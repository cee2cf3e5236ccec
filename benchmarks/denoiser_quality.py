"""How good a denoiser is: PSNR on CIFAR-10 test, and what two CIFAR-10 classifiers make of its output.

    python benchmarks/denoiser_quality.py DATA [--denoiser ID|DIR] [--images 2000]

PSNR: the first 256 images whose pixels are exact, mean of the per-image values, at four noise levels.
Accuracy: ResNet-20 and ResNet-56 on the first N sanitized test images; both were trained on clean images.
DATA is the folder that make_inputs.py reads too. Neither set was seen by the bundled denoiser.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from machine_facts import write_results
from make_inputs import load_unpack
from networks import accuracy, load_classifier
from safetensors.numpy import load_file

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.noise import add_noise

PSNR_SIGMAS = (0.05, 0.125, 0.25, 0.5)
ACCURACY_SIGMAS = (0.0, 0.05, 0.1, 0.25)
KEY = b"dpclean benchmark: not a secret."


def psnr(images: np.ndarray, clean: np.ndarray) -> float:
    """Mean of per-image peak signal-to-noise ratios in dB; uint8 [N, H, W, C] each."""
    error = ((images.astype(np.float64) - clean) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def sanitized(name: str, images: np.ndarray, sigma: float) -> np.ndarray:
    denoiser = Denoiser(find_denoiser(name), sigma)
    results = sorted(denoiser.denoise(enumerate(images), key=KEY), key=lambda r: r.index)
    return np.stack([r.pixels for r in results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--denoiser", default="natural")
    parser.add_argument("--images", type=int, default=2000, help="test images for the classifiers")
    parser.add_argument("--name", default="denoiser_quality", help="name of the result file")
    a = parser.parse_args()
    images, labels = load_unpack(a.data.resolve()).load_cifar10("test")
    inexact = load_file(a.data / "cifar10_labels.safetensors")["test_inexact_indices"]
    exact = np.delete(np.arange(len(images)), inexact)[:256]

    rows = []
    print(f"{'sigma':>6} {'noised':>8} {'denoised':>9}  PSNR in dB, 256 images")
    for sigma in PSNR_SIGMAS:
        noisy = add_noise(images[exact], sigma, key=KEY, run=0, indices=np.arange(256)).clip(0, 255)
        row = {
            "sigma": sigma,
            "psnr_noised": psnr(noisy, images[exact]),
            "psnr_denoised": psnr(sanitized(a.denoiser, images[exact], sigma), images[exact]),
        }
        rows.append(row)
        print(f"{sigma:6g} {row['psnr_noised']:8.2f} {row['psnr_denoised']:9.2f}", flush=True)

    classifiers = {layers: load_classifier(a.data, layers) for layers in (20, 56)}
    truth = torch.from_numpy(labels[: a.images].astype(np.int64))
    table = []
    print(f"{'sigma':>6} {'ResNet-20':>10} {'ResNet-56':>10}  accuracy in %, first {a.images} test images")
    for sigma in ACCURACY_SIGMAS:
        begun = time.perf_counter()
        output = torch.from_numpy(sanitized(a.denoiser, images[: a.images], sigma))
        seconds = time.perf_counter() - begun
        shares = {f"resnet{layers}": accuracy(network, output, truth) for layers, network in classifiers.items()}
        table.append({"sigma": sigma, "images": a.images, "sanitize_seconds": seconds, **shares})
        print(f"{sigma:6g} {100 * shares['resnet20']:10.2f} {100 * shares['resnet56']:10.2f}", flush=True)
    print(write_results(a.name, {"denoiser": a.denoiser, "psnr": rows, "accuracy": table}))


if __name__ == "__main__":
    main()
