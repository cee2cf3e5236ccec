"""How good denoisers are beside FFDNet: PSNR on CIFAR-10 test and on CBSD68, and what classifiers make of them.

    python benchmarks/denoiser_quality.py DATA [--denoisers ID|DIR ...] [--images 2000]

PSNR: the first 256 CIFAR-10 test images whose pixels are exact, and the 68 photos at 50 grey levels; means of the
per-image values. Accuracy: ResNet-20 and ResNet-56 on the first N sanitized test images; both were trained on clean
images. FFDNet gets the very same noised images, unclipped. DATA is the folder that make_inputs.py reads too. The
bundled denoisers saw neither set, nor was anything chosen by them.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from machine_facts import write_results
from make_inputs import load_unpack
from networks import Ffdnet, accuracy, load_classifier, load_ffdnet
from PIL import Image
from safetensors.numpy import load_file

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import BUNDLED, find_denoiser
from dpclean.noise import add_noise

PSNR_SIGMAS = (0.05, 0.125, 0.25, 0.5)
ACCURACY_SIGMAS = (0.0, 0.05, 0.1, 0.25, 0.5)
PHOTO_SIGMA = 50 / 255
KEY = b"dpclean benchmark: not a secret."


def psnr(images: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> float:
    """Mean of per-image peak signal-to-noise ratios in dB; uint8 [H, W, C] each."""
    errors = [((a.astype(np.float64) - b) ** 2).mean() for a, b in zip(images, clean, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def noised(images: Sequence[np.ndarray], sigma: float) -> list[np.ndarray]:
    """int16 [H, W, C] each, not clipped: what `sanitized` denoises."""
    return [
        add_noise(image[None], sigma, key=KEY, run=0, indices=np.array([index]))[0]
        for index, image in enumerate(images)
    ]


def sanitized(name: str, images: Sequence[np.ndarray], sigma: float) -> list[np.ndarray]:
    denoiser = Denoiser(find_denoiser(name), sigma)
    return [r.pixels for r in sorted(denoiser.denoise(enumerate(images), key=KEY), key=lambda r: r.index)]


@torch.inference_mode()
def by_ffdnet(network: Ffdnet, images: Sequence[np.ndarray], sigma: float, batch: int) -> list[np.ndarray]:
    """The same images with the same noise through FFDNet in float32; images of a batch have one shape."""
    inputs, found = noised(images, sigma), []
    for start in range(0, len(inputs), batch):
        x = torch.from_numpy(np.stack(inputs[start : start + batch])).permute(0, 3, 1, 2).float() / 255
        y = (network(x, sigma).clamp(0, 1) * 255).round().byte()
        found += list(y.permute(0, 2, 3, 1).numpy())
    return found


def read_photos(data: Path, name: str = "bsds_test_cbsd68.zip") -> list[np.ndarray]:
    """CBSD68, or the photos of another archive, uint8 [H, W, 3] each."""
    with zipfile.ZipFile(data / name) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png")))
        return [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--denoisers", nargs="+", default=list(BUNDLED))
    parser.add_argument("--images", type=int, default=2000, help="test images for the classifiers")
    parser.add_argument("--name", default="denoiser_quality", help="name of the result file")
    a = parser.parse_args()
    images, labels = load_unpack(a.data.resolve()).load_cifar10("test")
    inexact = load_file(a.data / "cifar10_labels.safetensors")["test_inexact_indices"]
    exact = list(images[np.delete(np.arange(len(images)), inexact)[:256]])
    ffdnet, photos = load_ffdnet(a.data), read_photos(a.data)

    head = " ".join(f"{Path(name).name:>10}" for name in ("noised", *a.denoisers, "ffdnet"))

    rows = []
    print(f"{'sigma':>6} {head}  PSNR in dB")
    for sigma, clean, batch in [(sigma, exact, 256) for sigma in PSNR_SIGMAS] + [(PHOTO_SIGMA, photos, 1)]:
        found = {
            "noised": psnr([image.clip(0, 255) for image in noised(clean, sigma)], clean),
            **{name: psnr(sanitized(name, clean, sigma), clean) for name in a.denoisers},
            "ffdnet": psnr(by_ffdnet(ffdnet, clean, sigma, batch), clean),
        }
        rows.append({"sigma": sigma, "images": "CIFAR-10 test" if clean is exact else "CBSD68", "psnr": found})
        print(f"{sigma:6.3g} " + " ".join(f"{value:10.2f}" for value in found.values()), rows[-1]["images"], flush=True)

    classifiers = {f"ResNet-{layers}": load_classifier(a.data, layers) for layers in (20, 56)}
    truth, first = torch.from_numpy(labels[: a.images].astype(np.int64)), list(images[: a.images])
    table = []
    print(f"accuracy in % on the first {a.images} images; columns: {', '.join((*a.denoisers, 'ffdnet'))}")
    for sigma in ACCURACY_SIGMAS:
        outputs = {name: np.stack(sanitized(name, first, sigma)) for name in a.denoisers}
        outputs["ffdnet"] = np.stack(by_ffdnet(ffdnet, first, sigma, 200))
        shares = {
            kind: {name: accuracy(network, torch.from_numpy(output), truth) for name, output in outputs.items()}
            for kind, network in classifiers.items()
        }
        table.append({"sigma": sigma, "images": a.images, "accuracy": shares})
        for kind, by_denoiser in shares.items():
            print(
                f"{sigma:6g} {kind:>10} " + " ".join(f"{100 * share:7.2f}" for share in by_denoiser.values()),
                flush=True,
            )
    print(write_results(a.name, {"denoisers": a.denoisers, "psnr": rows, "accuracy": table}))


if __name__ == "__main__":
    main()
