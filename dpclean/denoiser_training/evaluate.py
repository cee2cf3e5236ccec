"""How well a denoiser restores images of one's own: PSNR, SSIM, what a classifier sees, and the cost, by method."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpclean.data.dataset import by_reason, none_usable, numbered, unusable
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.digest import pixel_sha256
from dpclean.data.records import DataOptions, Entry, Sample
from dpclean.data.sources import open_source
from dpclean.denoise import schedule
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import DenoiserFiles, find_denoiser, load_schedule
from dpclean.denoise.methods import Method, find_method
from dpclean.device import choose_device
from dpclean.errors import SetupError, UsageError
from dpclean.jobs.checks import check_ranges, given_path
from dpclean.noise import add_noise
from dpclean.progress import Pace, Progress, Show, shown_as_asked
from dpclean.train.images import prepare
from dpclean.train.model import read_model
from dpclean.train.trainer import Trainer

Pixels = NDArray[np.uint8]
Metric = Callable[[Pixels, Pixels], float]

KEY = b"dpclean evaluation: not a secret"  # the same noise every time
HIGHEST_PSNR = 100.0  # dB, for an image that comes back exactly
MOST_SIGMAS = 100
WINDOW = 7  # pixels, of SSIM
ONE_STEP = "one-step"
SEEN_TOGETHER = 256  # images that a classifier is shown at once


@dataclass(frozen=True)
class Row:
    """Means over the images at one noise level by one method, of what the network is given (clipped to 0..255) and
    gives back.

    cost: time over that of one-step at this level, None where that was not measured or one batch held all images.
    agreement: share of the images whose class, by the classifier, is that of the clean image; accuracy: share of those
    with a label whose class is right; None without a classifier or labels.
    """

    sigma: float
    method: str
    evaluations: int  # of the network, a sample
    psnr_noised: float  # dB
    psnr_denoised: float
    ssim_noised: float
    ssim_denoised: float
    agreement: float | None
    accuracy: float | None
    megapixels_per_second: float
    cost: float | None


@dataclass(frozen=True)
class Seeing:
    """The classifier of an evaluation. size: of the images that it takes, to which it has them brought.

    seen: how many of the images, at least, it was trained on; labelled: how many have a class that it knows, of which
    accuracy is the share that it finds on the clean images.
    """

    model: str
    size: int
    seen: int
    labelled: int
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `denoiser eval` found. seen: how many images, at least, the denoiser was fitted on; None: not known.
    quarantined: images that cannot be used, by reason; warnings names the first.
    """

    denoiser: str
    images: int
    seen: int | None
    classifier: Seeing | None
    rows: list[Row]
    quarantined: dict[str, int]
    warnings: list[str]

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
    method: str | Sequence[str] = ONE_STEP,
    classifier: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Show | bool | None = None,
) -> Evaluation:
    """PSNR and SSIM of a denoiser on the images of a folder or of shards, by scikit-image, means of per-image values.

    sigmas: on the [0, 1] pixel scale. limit: only the first entries of the listing. method: those of `sanitize`, one
    or several. classifier: what `train` wrote; it is shown the images before and after. The noise is the same every
    time. Raises UsageError, InputError, and SetupError where scikit-image is missing.
    """
    methods = _methods(method)
    _check(sigmas, limit=limit, workers=workers)
    metrics = _metrics()
    files = find_denoiser(denoiser)
    options = DataOptions(channels=files.channels)
    _check_levels(files, sigmas, methods)
    judge = None if classifier is None else _Judge(given_path(classifier), device)
    source = open_source(Path(data), options)
    entries = list(itertools.islice(source.entries(), limit))
    if judge is not None:
        judge.name_labels(entries, source.classes)
    ancestry = files.ancestry()
    rows, seen, images = list[Row](), 0, 0
    left_out: list[tuple[str, str]] = []
    pace, total = Pace(), len(sigmas) * len(methods) * len(entries)
    with shown_as_asked(progress) as tell, WorkerPool(workers or len(os.sched_getaffinity(0)), options) as pool:
        for sigma, by in itertools.product(sigmas, methods):
            first, before = not rows, len(rows) * len(entries)
            measured = _Measured(sigma, by)
            engine = Denoiser(files, sigma, device=device, dtype=dtype, method=by.name)
            samples = _usable(source.samples(entries, pool), left_out)
            for index, clean, noised, found in _restored(engine, samples, measured):
                measured.values.append([measure(clean, image) for image in (noised, found) for measure in metrics])
                seen += first and pixel_sha256(clean) in ancestry
                if judge is not None:
                    judge.look(index, clean if first else None, found)
                done = before + len(measured.values)
                tell(Progress(done, total, "images", pace.seconds_left(done, total), f"sigma {sigma:g}, {by.name}"))
            if not measured.values:
                raise none_usable(Path(data), len(entries), left_out)
            rows.append(measured.row(judge, rows))
            images, gone = len(measured.values), {name for name, _ in left_out}
            entries = [entry for entry in entries if entry.name not in gone]  # what appears later has no clean one
    seeing = judge.seeing() if judge is not None else None
    said = source.remarks() + unusable(left_out, "images")
    known = seen if seen or ancestry.complete else None
    return Evaluation(denoiser, images, known, seeing, rows, by_reason(left_out), said)


def _methods(asked: str | Sequence[str]) -> list[Method]:
    """Each once, in order. Raises UsageError."""
    names = asked.split(",") if isinstance(asked, str) else asked
    methods = [find_method(name.strip()) for name in names]
    if not methods:
        raise UsageError("no method is given", f"give --method {ONE_STEP}")
    return list({method.name: method for method in methods}.values())


def _check(sigmas: Sequence[float], **numbers: Any) -> None:
    if not 0 < len(sigmas) <= MOST_SIGMAS or any(sigma <= 0 for sigma in sigmas):
        raise UsageError(
            f"the noise levels must be positive, and at most {MOST_SIGMAS}", "give --sigmas 0.05,0.1,0.25,0.5"
        )
    check_ranges(**numbers)


def _check_levels(files: DenoiserFiles, sigmas: Sequence[float], methods: Sequence[Method]) -> None:
    """Raises UsageError or SetupError for what the schedule does not have, before anything else is done."""
    known = load_schedule(files)
    for sigma, method in itertools.product(sigmas, methods):
        method.levels(schedule.match(known.alphas_cumprod, sigma), known)


class _Measured:
    """What is measured of one method at one noise level."""

    def __init__(self, sigma: float, method: Method) -> None:
        self.sigma, self.method = sigma, method
        self.values = list[list[float]]()  # of each image: PSNR and SSIM noised, PSNR and SSIM denoised
        self.evaluations = 1
        self.batches, self.pixels, self.seconds = 0, 0.0, 0.0  # of the denoiser alone

    def on_batch(self, pixels: float, seconds: float) -> None:
        """The first batch, in which libraries set themselves up, counts only where there is no other."""
        self.batches += 1
        if self.batches == 2:
            self.pixels, self.seconds = 0.0, 0.0
        self.pixels, self.seconds = self.pixels + pixels, self.seconds + seconds

    def row(self, judge: _Judge | None, before: Sequence[Row]) -> Row:
        """Of one image at least."""
        psnr_noised, ssim_noised, psnr_denoised, ssim_denoised = np.mean(self.values, axis=0).tolist()
        agreement, accuracy = judge.verdict() if judge is not None else (None, None)
        rate = self.pixels / 1e6 / max(self.seconds, 1e-9)
        rates = {(row.sigma, row.method): row.megapixels_per_second for row in before}
        rates[self.sigma, self.method.name] = rate
        one_step = rates.get((self.sigma, ONE_STEP)) if self.batches > 1 else None
        return Row(
            self.sigma, self.method.name, self.evaluations, psnr_noised, psnr_denoised, ssim_noised, ssim_denoised,
            agreement, accuracy, rate, None if one_step is None else one_step / rate,
        )  # fmt: skip


class _Judge:
    """What a classifier sees: its classes for images before and after. Raises what reading a model raises."""

    def __init__(self, folder: Path, device: str) -> None:
        model = read_model(folder)
        self._folder, self._ancestry = folder, model.ancestry()
        self._classes, self._size = model.description.classes, model.description.size
        self._trainer = model.trainer(choose_device(device))
        self._labels: dict[int, int] = {}  # by index, places in the classes
        self._of_clean = _Classes(self._trainer, self._size)
        self._of_found = _Classes(self._trainer, self._size)
        self._trained_on = 0

    def name_labels(self, entries: Sequence[Entry], classes: tuple[str, ...]) -> None:
        """Labels by the names of classes; a class that the classifier does not have is no label."""
        labels, names = numbered(np.array([entry.label for entry in entries], np.int64), classes)
        places = {name: place for place, name in enumerate(self._classes)}
        for entry, label in zip(entries, labels.tolist(), strict=True):
            if label >= 0 and names[label] in places:
                self._labels[entry.index] = places[names[label]]

    def look(self, index: int, clean: Pixels | None, found: Pixels) -> None:
        """clean: where it was not seen before."""
        if clean is not None:
            self._of_clean.add(index, clean)
            self._trained_on += pixel_sha256(clean) in self._ancestry
        self._of_found.add(index, found)

    def verdict(self) -> tuple[float, float | None]:
        """Agreement and accuracy of what it looked at since the last one."""
        clean, found = self._of_clean.all(), self._of_found.all()
        self._of_found = _Classes(self._trainer, self._size)
        return sum(clean[index] == seen for index, seen in found.items()) / len(found), self._accuracy(found)

    def _accuracy(self, seen: dict[int, int]) -> float | None:
        right = [self._labels[index] == place for index, place in seen.items() if index in self._labels]
        return sum(right) / len(right) if right else None

    def seeing(self) -> Seeing:
        """What is to be said of it."""
        clean = self._of_clean.all()
        labelled = len(self._labels.keys() & clean.keys())
        return Seeing(str(self._folder), self._size, self._trained_on, labelled, self._accuracy(clean))


class _Classes:
    """What a classifier takes images for, by index; they are shown to it in batches."""

    def __init__(self, trainer: Trainer, size: int) -> None:
        self._trainer, self._size = trainer, size
        self._waiting: dict[int, Tensor] = {}
        self._found: dict[int, int] = {}

    def add(self, index: int, pixels: Pixels) -> None:
        self._waiting[index] = prepare([pixels], self._size)
        if len(self._waiting) == SEEN_TOGETHER:
            self.all()

    def all(self) -> dict[int, int]:
        if self._waiting:
            seen = self._trainer.predict(torch.cat([*self._waiting.values()])).tolist()
            self._found |= zip(self._waiting, seen, strict=True)
            self._waiting = {}
        return self._found


def _usable(samples: Iterable[Sample], left_out: list[tuple[str, str]]) -> Iterator[tuple[int, Pixels]]:
    """(index, pixels) of each that can be used; name and reason of the others are added to left_out."""
    for sample in samples:
        if sample.pixels is not None:
            yield sample.entry.index, sample.pixels
        elif sample.reason is not None:
            left_out.append((sample.entry.name, sample.reason.value))


def _restored(
    engine: Denoiser, samples: Iterable[tuple[int, Pixels]], measured: _Measured
) -> Iterator[tuple[int, Pixels, Pixels, Pixels]]:
    """(index, clean, noised and clipped, denoised), uint8 [H, W, C] each, as the denoiser's batches fill."""
    waiting: dict[int, Pixels] = {}
    clock = _Clock()

    def remembered() -> Iterator[tuple[int, Pixels]]:
        clock.halt()  # reading is not the denoiser's
        for index, pixels in samples:
            waiting[index] = pixels
            clock.go()
            yield index, pixels
            clock.halt()
        clock.go()

    measured.evaluations = engine.evaluations_a_sample
    clock.go()
    for result in engine.denoise(
        remembered(), key=KEY, on_batch=lambda pixels: measured.on_batch(pixels, clock.taken())
    ):
        clock.halt()
        clean = waiting.pop(result.index)
        noised = add_noise(clean[None], engine.level.sigma, key=KEY, run=0, indices=np.array([result.index]))[0]
        yield result.index, clean, noised.clip(0, 255).astype(np.uint8), result.pixels
        clock.go()


class _Clock:
    """Seconds in which it went."""

    def __init__(self) -> None:
        self._seconds, self._since = 0.0, 0.0

    def go(self) -> None:
        self._since = time.perf_counter()

    def halt(self) -> None:
        self._seconds += time.perf_counter() - self._since

    def taken(self) -> float:
        """Those since it was asked last; it goes on."""
        self.halt()
        seconds, self._seconds = self._seconds, 0.0
        self.go()
        return seconds


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
        options = {"win_size": window, "channel_axis": 2, "data_range": 255}
        # in a window of one pixel nothing varies, and the sample covariance would divide by zero
        return float(metrics.structural_similarity(clean, found, use_sample_covariance=window > 1, **options))

    return psnr, ssim
