"""A picture of what a denoiser does: clean, noised and denoised side by side, at several noise levels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import DenoiserFiles
from dpclean.noise import add_noise

SIGMAS = (0.05, 0.1, 0.25, 0.5, 1.0)
KEY = b"dpclean pictures: not a secret.."
GAP = 2  # pixels


def samples_png(files: DenoiserFiles, images: NDArray[np.uint8], *, device: str = "auto") -> bytes:
    """A PNG with two rows an image [N, H, W, C]: clean and noised above, denoised below each noise level."""
    from PIL import Image

    count, height, width, _ = images.shape
    sheet = np.full((2 * count * (height + GAP), (1 + len(SIGMAS)) * (width + GAP), 3), 255, np.uint8)

    def put(pictures: NDArray[np.uint8], column: int, below: bool) -> None:
        left = column * (width + GAP)
        for number, picture in enumerate(pictures):
            top = (2 * number + below) * (height + GAP)
            sheet[top : top + height, left : left + width] = picture

    put(images, 0, False)
    for column, sigma in enumerate(SIGMAS, 1):
        noised = add_noise(images, sigma, key=KEY, run=0, indices=np.arange(count))
        engine = Denoiser(files, sigma, device=device, batch_pixels=count * height * width)  # no larger one is tried
        results = engine.denoise(enumerate(images), key=KEY)
        put(noised.clip(0, 255).astype(np.uint8), column, False)
        put(np.stack([r.pixels for r in sorted(results, key=lambda r: r.index)]), column, True)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG")
    return out.getvalue()
