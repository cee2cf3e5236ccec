"""Fit a denoiser to trusted images: find what is there, begin or resume, train, write a diffusers folder."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dpclean.build import build
from dpclean.data.ancestry import united
from dpclean.denoise.card import card
from dpclean.denoise.loading import WEIGHTS, find_denoiser
from dpclean.denoise.patches import read_patches
from dpclean.denoise.perceptual_loss import Classifier
from dpclean.denoise.samples import samples_png
from dpclean.denoise.start import Start
from dpclean.denoise.training import Recipe, Training
from dpclean.device import choose_device, keep_memory
from dpclean.errors import ConflictError, Diverged, Interrupted, UsageError
from dpclean.given import check_ranges, given_path
from dpclean.jobs.durable import write_durably
from dpclean.jobs.manifest import ANCESTRY_NAME
from dpclean.jobs.record import read_record
from dpclean.jobs.signals import first_signal
from dpclean.jobs.staging import Staging
from dpclean.progress import shown_as_asked
from dpclean.threads import check_threads, choose_threads, computing_with

CHECKPOINT_SECONDS = 60.0
JOB_NAME, CHECKPOINT_NAME = "dpclean.fit.json", "checkpoint.safetensors"
JOB_FIELDS: dict[str, type] = {"parameters": dict, "engine": dict, "steps": int}
MEAN = "mean loss"  # in a checkpoint, beside the training's own state
PROBED = 8  # steps that are timed to find how many fit into the minutes
SAMPLES = 4  # images in the picture
RATE, RATE_FROM_INIT = 1e-3, 3e-4


@dataclass(frozen=True)
class Progress:
    """How far a fit is: steps done of all."""

    finished: int
    total: int
    said: str  # loss and seconds left
    unit: str = "steps"


@dataclass(frozen=True)
class FitResult:
    """What `denoiser fit` did. seconds: wall time of this call."""

    out: str
    images: int
    quarantined: dict[str, int]
    steps: int
    seed: int
    device: str
    already_complete: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "denoiser fit", **asdict(self)}


def fit(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    init: str | None = None,
    classifier: Classifier | None = None,
    minutes: float = 60.0,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | bool | None = None,
) -> FitResult:
    """Fit a denoiser to the images of folders or shards; the same call again goes on where the last one stopped.

    init: a denoiser whose network and weights to begin from, else the bundled one's network and random weights.
    classifier: one trained on trusted images, in whose features too the results shall be near (perceptual_loss.py).
    steps: how many, else as many as fit into the minutes by the speed of the first few. The same steps and seed give
    the same weights on the same machine with the same number of threads, whether or not it was interrupted.
    Raises UsageError, InputError, SetupError, ConflictError, Diverged, or Interrupted after a signal.
    """
    if not data:
        raise UsageError("no images are given", "give folders of trusted images, or shards")
    check_ranges(minutes=minutes, steps=steps, batch_size=batch_size, learning_rate=learning_rate, workers=workers)
    check_threads(threads)
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"seed must be from 0 to {(1 << 32) - 1}, got {seed}", "give a smaller number")
    begun = time.monotonic()
    start, where = Start.of(init), choose_device(device)
    if where.type == "cpu":
        keep_memory()
    rate = learning_rate if learning_rate is not None else RATE if init is None else RATE_FROM_INIT
    sources = [given_path(path).resolve() for path in data]
    staging = Staging(Path(out))
    staging.check_apart(*sources, init)
    with staging, computing_with(_threads(staging.partial, threads, overwrite)):
        _check_out(staging.out, overwrite)
        patches = read_patches(sources, seed=seed, workers=workers)
        parameters = {
            "images": hashlib.sha256(patches.ancestry.images.tobytes()).hexdigest(),
            "init": start.files.digests() if start.files else None,
            "classifier": classifier.weights_sha256 if classifier else None,
            "minutes": None if steps else minutes,
            "asked_steps": steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            "seed": seed,
        }
        engine = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads() if where.type == "cpu" else None,
            "device": str(where),
            "dpclean": build(),
        }
        finished = None if overwrite else _job(staging.out, staging.out, parameters, {})
        job = finished or (None if overwrite else _job(staging.partial, staging.out, parameters, engine))
        if job is None:
            probe = Recipe(PROBED, batch_size, rate, seed)
            wanted = steps or _steps(start.training(patches, probe, where, classifier), minutes)
            job = {"format": 1, "parameters": parameters, "engine": engine, "steps": wanted}
            staging.start()
            write_durably(staging.partial / JOB_NAME, as_json(job))
        recipe = Recipe(job["steps"], batch_size, rate, seed)
        if finished is None:
            training = start.training(patches, recipe, where, classifier)
            with shown_as_asked(progress) as show:
                _fit(staging, training, start, sources, engine, show)
    return FitResult(
        out=str(staging.out),
        images=patches.images,
        quarantined=patches.quarantined,
        steps=recipe.steps,
        seed=seed,
        device=where.type,
        already_complete=finished is not None,
        seconds=round(time.monotonic() - begun, 3),
    )


def _fit(
    staging: Staging,
    training: Training,
    start: Start,
    sources: Sequence[Path],
    engine: dict[str, Any],
    progress: Callable[[Progress], None],
) -> None:
    """Train to the end, write the denoiser, make it OUT."""
    checkpoint = staging.partial / CHECKPOINT_NAME
    try:
        with first_signal() as interrupted:
            loss = _train(training, checkpoint, interrupted, progress)
    except Diverged:
        staging.discard()
        raise
    _write(staging.partial, start, training, sources, loss, engine)
    checkpoint.unlink(missing_ok=True)
    staging.commit()


def _check_out(out: Path, overwrite: bool) -> None:
    """Raise ConflictError for an OUT that is something else than a denoiser that was fitted here."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / JOB_NAME).is_file():
        raise ConflictError(f"{str(out)!r} exists and was not made by 'denoiser fit'", "choose another --out")


def _job(folder: Path, out: Path, parameters: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any] | None:
    """The job that a folder belongs to, None where there is none. Raises ConflictError for one of other parameters.

    engine: what must be as it was too, to go on to the same weights; of what is finished nothing.
    """
    job = read_record(folder / JOB_NAME, JOB_FIELDS)
    if job is None:
        return None
    begun, asked = {**job["parameters"], **job["engine"]}, {**parameters, **engine}
    changed = sorted(name for name in asked if begun.get(name) != asked[name])
    if changed:
        told = ", ".join(f"{name.replace('_', '-')} was {begun.get(name)}" for name in changed)
        raise ConflictError(
            f"{str(out)!r} was begun with other parameters: {told}",
            "choose another --out, or --overwrite to start again",
        )
    return job


def _threads(partial: Path, asked: int | None, overwrite: bool) -> int | None:
    """With how many threads; those that an interrupted job was begun with, as the weights depend on their number."""
    if asked is None and not overwrite and (job := read_record(partial / JOB_NAME, JOB_FIELDS)) is not None:
        recorded: int | None = job["engine"].get("threads")
        return recorded
    return choose_threads(asked)


def _steps(probe: Training, minutes: float) -> int:
    """How many steps fit into the minutes, by the time that those of the probe take."""
    probe.step()  # pays for what is set up once
    begun = time.monotonic()
    for _ in range(PROBED):
        probe.step()
    return max(1, int(minutes * 60 * PROBED / (time.monotonic() - begun)))


def _train(
    training: Training, checkpoint: Path, interrupted: threading.Event, progress: Callable[[Progress], None]
) -> float:
    """All steps from the last checkpoint on; the mean loss of the last ones."""
    mean = torch.zeros((), dtype=torch.float64)
    if checkpoint.exists():
        state = load_file(checkpoint)
        mean = state.pop(MEAN)
        training.restore(state)
    total, first = training.recipe.steps, training.done
    begun = saved = time.monotonic()
    while training.done < total:
        loss = float(training.step())
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not finite after {training.done} steps", "give a lower --learning-rate")
        mean += max(0.01, 1 / training.done) * (loss - mean)
        now = time.monotonic()
        left = (now - begun) * (total - training.done) / (training.done - first)
        progress(Progress(training.done, total, f"loss {mean:.4f}, {left:.0f} s left"))
        stopped = interrupted.is_set() and training.done < total
        if stopped or now - saved >= CHECKPOINT_SECONDS:
            write_durably(checkpoint, save({**training.state(), MEAN: mean}))
            saved = now
        if stopped:
            raise Interrupted(f"stopped after {training.done} of {total} steps, saved", "the same command goes on")
    return float(mean)


def _write(
    folder: Path, start: Start, training: Training, sources: Sequence[Path], loss: float, engine: dict[str, Any]
) -> None:
    """The diffusers layout with float16 weights, the ancestry as far as it is known, a picture and the card."""
    (folder / "scheduler").mkdir(exist_ok=True)
    config = {name: value for name, value in start.network.items() if not name.startswith("_")}
    config["_class_name"] = "UNet2DModel"
    write_durably(folder / "config.json", as_json(config))
    write_durably(folder / "scheduler" / "scheduler_config.json", as_json(start.scheduler))
    half: dict[str, Tensor] = {name: tensor.half().contiguous().cpu() for name, tensor in training.average.items()}
    write_durably(folder / WEIGHTS, save(half, {"format": "pt"}))
    inherited = [start.ancestry] + ([training.classifier.ancestry] if training.classifier is not None else [])
    ancestry = united([training.patches.ancestry, *inherited])
    write_durably(folder / ANCESTRY_NAME, ancestry.dump())
    source = training.patches.large if len(training.patches.large) else training.patches.small
    shown = source[:: max(1, len(source) // SAMPLES)][:SAMPLES].permute(0, 2, 3, 1).cpu().contiguous().numpy()
    files = find_denoiser(str(folder))
    write_durably(folder / "samples.png", samples_png(files, shown, device=str(training.device)))
    text = card(sources, training, init=start.files, ancestry=ancestry, loss=loss, engine=engine)
    write_durably(folder / "README.md", text.encode())


def as_json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=2, sort_keys=True).encode() + b"\n"
