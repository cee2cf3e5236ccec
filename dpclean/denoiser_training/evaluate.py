"""How well a denoiser restores images of one's own: PSNR and SSIM at several noise levels."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.digest import pixel_sha256
from dpclean.data.records import DataOptions, Sample
from dpclean.data.sources import open_source
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.jobs.checks import check_ranges
from dpclean.noise import add_noise
from dpclean.progress import Pace, Progress, Show, shown_as_asked

Pixels = NDArray[np.uint8]
Metric = Callable[[Pixels, Pixels], float]

KEY = b"dpclean evaluation: not a secret"  # the same noise every time
HIGHEST_PSNR = 100.0  # dB, for an image that comes back exactly
MOST_SIGMAS = 100
WINDOW = 7  # pixels, of SSIM


@dataclass(frozen=True)
class Row:
    """Means over the images at one noise level, of what the network is given (clipped to 0..255) and gives back."""

    sigma: float
    psnr_noised: float  # dB
    psnr_denoised: float
    ssim_noised: float
    ssim_denoised: float


@dataclass(frozen=True)
class Evaluation:
    """What `denoiser eval` found. seen: how many images, at least, the denoiser was fitted on; None: not known."""

    denoiser: str
    images: int
    seen: int | None
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "denoiser eval", **asdict(self)}


def evaluate(
    denoiser: str,
    data: str | os.PathLike[str],
    *,
    sigmas: Sequence[float] = (0.05, 0.1, 0.25, 0.5),
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    method: str = "one-step",
    workers: int | None = None,
    progress: Show | bool | None = None,
) -> Evaluation:
    """PSNR and SSIM of a denoiser on the images of a folder or of shards, by scikit-image, means of per-image values.

    sigmas: on the [0, 1] pixel scale. limit: only the first entries of the listing. method: that of `sanitize`. The
    noise is the same every time. Raises UsageError, InputError, and SetupError where scikit-image is missing.
    """
    _check(sigmas, limit=limit, workers=workers)
    metrics = _metrics()
    files, options = find_denoiser(denoiser), DataOptions()
    source = open_source(Path(data), options)
    entries = list(itertools.islice(source.entries(), limit))
    ancestry = files.ancestry()
    rows, seen, images = [], 0, 0
    pace, total = Pace(), len(sigmas) * len(entries)
    with shown_as_asked(progress) as tell, WorkerPool(workers or len(os.sched_getaffinity(0)), options) as pool:
        for number, sigma in enumerate(sigmas):
            engine = Denoiser(files, sigma, device=device, dtype=dtype, method=method)
            values: list[list[float]] = []
            for clean, noised, found in _restored(engine, source.samples(entries, pool)):
                values.append([measure(clean, image) for image in (noised, found) for measure in metrics])
                seen += number == 0 and pixel_sha256(clean) in ancestry
                done = number * len(entries) + len(values)
                tell(Progress(done, total, "images", pace.seconds_left(done, total), f"sigma {sigma:g}"))
            rows.append(_row(sigma, values, data))
            images = len(values)
    return Evaluation(denoiser, images, seen if seen or ancestry.complete else None, rows)


def _check(sigmas: Sequence[float], **numbers: Any) -> None:
    if not 0 < len(sigmas) <= MOST_SIGMAS or any(sigma <= 0 for sigma in sigmas):
        raise UsageError(
            f"the noise levels must be positive, and at most {MOST_SIGMAS}", "give --sigmas 0.05,0.1,0.25,0.5"
        )
    check_ranges(**numbers)


def _row(sigma: float, values: list[list[float]], data: str | os.PathLike[str]) -> Row:
    """Means of the images' (PSNR, SSIM) noised and denoised. Raises InputError where there are none."""
    if not values:
        raise InputError(f"none of the files in {str(data)!r} is an image that can be used", "look at it")
    psnr_noised, ssim_noised, psnr_denoised, ssim_denoised = np.mean(values, axis=0).tolist()
    return Row(sigma, psnr_noised, psnr_denoised, ssim_noised, ssim_denoised)


def _restored(engine: Denoiser, samples: Iterable[Sample]) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """(clean, noised and clipped, denoised), uint8 [H, W, C] each, as the denoiser's batches fill."""
    waiting: dict[int, Pixels] = {}

    def remembered() -> Iterator[tuple[int, Pixels]]:
        for sample in samples:
            if sample.pixels is not None:
                waiting[sample.entry.index] = sample.pixels
                yield sample.entry.index, sample.pixels

    for result in engine.denoise(remembered(), key=KEY):
        clean = waiting.pop(result.index)
        noised = add_noise(clean[None], engine.level.sigma, key=KEY, run=0, indices=np.array([result.index]))[0]
        yield clean, noised.clip(0, 255).astype(np.uint8), result.pixels


def _metrics() -> tuple[Metric, Metric]:
    """PSNR and SSIM of (clean, found), both uint8 [H, W, C]."""
    try:
        metrics = importlib.import_module("skimage.metrics")
    except ImportError as error:
        raise SetupError("scikit-image is not installed", "pip install 'dpclean[eval]'") from error

    def psnr(clean: Pixels, found: Pixels) -> float:
        if np.array_equal(clean, found):
            return HIGHEST_PSNR
        return min(HIGHEST_PSNR, float(metrics.peak_signal_noise_ratio(clean, found, data_range=255)))

    def ssim(clean: Pixels, found: Pixels) -> float:
        window = min(WINDOW, *clean.shape[:2])
        window -= window % 2 == 0
        return float(
            metrics.structural_similarity(clean, found, win_size=max(1, window), channel_axis=2, data_range=255)
        )

    return psnr, ssim
