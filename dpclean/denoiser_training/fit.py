"""Fit a denoiser to trusted images: find what is there, begin or resume, train, write a diffusers folder."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from dpclean.build import build
from dpclean.data.ancestry import united
from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.denoise.loading import WEIGHTS, find_denoiser
from dpclean.denoiser_training.initial_network import Start
from dpclean.denoiser_training.model_card import card
from dpclean.denoiser_training.options import FitKeywords, FitOptions
from dpclean.denoiser_training.patches import Patches, read_patches
from dpclean.denoiser_training.results import FitDryRun, FitResult
from dpclean.denoiser_training.sample_grid import samples_png
from dpclean.denoiser_training.training import Recipe, Training
from dpclean.device import choose_device, keep_memory
from dpclean.errors import Diverged, InputError, Interrupted, UsageError
from dpclean.jobs.checks import given_path, options_of
from dpclean.jobs.durable import sealed, unsealed, write_durably
from dpclean.jobs.job import COMPLETE, Call, Hopeless, Job, Tell, run
from dpclean.jobs.record import Json, Record, read_record, write_record
from dpclean.progress import Pace, Progress, Show
from dpclean.threads import computing_as_begun

CHECKPOINT_SECONDS = 60.0
RECORD_NAME, CHECKPOINT_NAME = "dpclean.fit.json", "checkpoint.safetensors"
MEAN = "mean loss"  # in a checkpoint, beside the training's own state
PROBED = 8  # steps that are timed to find how many fit into the minutes
SAMPLES = 4  # images in the picture


def fit(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    progress: Show | bool | None = None,
    **options: Unpack[FitKeywords],
) -> FitResult:
    """Fit a denoiser to the images of folders or shards; the same call again goes on where the last one stopped.

    options: the fields of `FitOptions`. The same steps and seed give the same weights on the same machine with the same
    number of threads, whether or not it was interrupted. Raises UsageError, InputError, SetupError, ConflictError,
    Diverged, or Interrupted after a signal.
    """
    asked = options_of(FitOptions, "denoiser fit", options)
    return run(FitJob(data, Path(out), asked), overwrite=asked.overwrite, progress=progress)


def dry_run(
    data: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], **options: Unpack[FitKeywords]
) -> FitDryRun:
    """What `fit` with the same arguments would do, from its first steps; writes nothing."""
    return FitJob(data, Path(out), options_of(FitOptions, "denoiser fit", options)).look_ahead()


class FitJob(Job[FitResult]):
    kind = "denoiser fit"
    marks = (RECORD_NAME,)

    def __init__(self, data: Sequence[str | os.PathLike[str]], out: Path, options: FitOptions) -> None:
        if not data:
            raise UsageError("no images are given", "give folders of trusted images, or shards")
        super().__init__(out)
        self.options = options
        self.sources = [given_path(path).resolve() for path in data]
        self.device = choose_device(options.device)
        if self.device.type == "cpu":
            keep_memory()

    @cached_property
    def start(self) -> Start:
        return Start.of(self.options.init)

    @cached_property
    def patches(self) -> Patches:
        """Of the images, read once."""
        return read_patches(self.sources, seed=self.options.seed, workers=self.options.workers)

    def inputs(self) -> list[str | os.PathLike[str] | None]:
        return [*self.sources, self.options.init]

    def parameters(self) -> Json:
        o = self.options
        return {
            "images": hashlib.sha256(self.patches.ancestry.images.tobytes()).hexdigest(),
            "init": self._init_digests,
            "classifier": o.classifier.weights_sha256 if o.classifier else None,
            "minutes": None if o.steps else o.minutes,
            "steps": o.steps,
            "batch_size": o.batch_size,
            "learning_rate": o.rate,
            "seed": o.seed,
        }

    @cached_property
    def _init_digests(self) -> dict[str, str] | None:
        return self.start.files.digests() if self.start.files else None

    def environment(self) -> Json:
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "device": str(self.device),
            "dpclean": build(),
        }

    def made_with(self) -> Json:
        return self._made().parameters

    def _made(self) -> Record:
        record = read_record(self.out / RECORD_NAME)
        if record is None:
            raise InputError(f"{str(self.out / RECORD_NAME)!r} is gone", "restore it, or start again with --overwrite")
        return record

    def ready(self, record: Record | None) -> AbstractContextManager[None]:
        """As many threads as an interrupted job was begun with, as the weights depend on their number."""
        return computing_as_begun(record.environment if record else None, self.options.threads)

    def begin(self) -> Json:
        """How many steps fit into the minutes is found out once."""
        return {"steps": self.options.steps or self._steps(self._probed()[1])}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        training = self._training(record.found["steps"])
        try:
            self.loss = _train(training, self.staging.work / CHECKPOINT_NAME, stop, tell)
        except Diverged as error:
            raise Hopeless(error) from error
        self.training = training
        return True

    def save(self, record: Record) -> None:
        folder = self.staging.partial
        _write(folder, self.start, self.training, self.sources, self.loss, record.environment)
        write_record(folder / RECORD_NAME, record)

    def result(self, call: Call) -> FitResult:
        return FitResult(
            out=str(self.out),
            images=self.patches.images,
            quarantined=self.patches.quarantined,
            steps=self._made().found["steps"],
            seed=self.options.seed,
            device=self.device.type,
            already_complete=call.already_complete,
            seconds=round(call.seconds, 3),
            warnings=self.patches.remarks,
        )

    def _training(self, steps: int) -> Training:
        o = self.options
        recipe = Recipe(steps, o.batch_size, o.rate, o.seed)
        return self.start.training(self.patches, recipe, self.device, o.classifier)

    def _probed(self) -> tuple[Training, float]:
        """A training after a few steps, and the seconds that one of them takes."""
        training = self._training(PROBED)
        float(training.step())  # pays for what is set up once
        begun = time.monotonic()
        for _ in range(PROBED):
            float(training.step())  # a card is waited for
        return training, (time.monotonic() - begun) / PROBED

    def _steps(self, seconds: float) -> int:
        """How many of so many seconds fit into the minutes."""
        return max(1, int(self.options.minutes * 60 / seconds))

    def look_ahead(self) -> FitDryRun:
        complete = self.foresee(overwrite=self.options.overwrite)
        with self.ready(None):
            training, seconds = self._probed()
        steps = self.options.steps or self._steps(seconds)
        on_gpu = self.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self.device) if on_gpu else _peak_memory()
        return FitDryRun(
            out=str(self.out),
            images=self.patches.images,
            quarantined=self.patches.quarantined,
            patches=len(self.patches.small) + len(self.patches.large),
            steps=steps,
            seconds=round(steps * seconds, 1),
            device=self.device.type,
            memory_bytes=memory,
            bytes=sum(tensor.nbytes for tensor in training.state().values())
            + sum(tensor.nbytes // 2 for tensor in training.average.values()),
            warnings=[*self.patches.remarks, *[COMPLETE] * complete],
        )


def _peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _train(training: Training, checkpoint: Path, interrupted: threading.Event, tell: Tell) -> float:
    """All steps from the last checkpoint on; the mean loss of the last ones."""
    mean = torch.zeros((), dtype=torch.float64)
    if checkpoint.exists():
        state = load(unsealed(checkpoint))
        mean = state.pop(MEAN)
        training.restore(state)
    total, pace = training.recipe.steps, Pace(training.done)
    saved = time.monotonic()
    while training.done < total:
        loss = float(training.step())
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not finite after {training.done} steps", "give a lower --learning-rate")
        mean += max(0.01, 1 / training.done) * (loss - mean)
        tell(Progress(training.done, total, "steps", pace.seconds_left(training.done, total), f"loss {mean:.4f}"))
        stopped = interrupted.is_set() and training.done < total
        if stopped or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            write_durably(checkpoint, sealed(save({**training.state(), MEAN: mean})))
            saved = time.monotonic()
        if stopped:
            raise Interrupted(f"stopped after {training.done} of {total} steps, saved", "the same command goes on")
    return float(mean)


def _write(folder: Path, start: Start, training: Training, sources: Sequence[Path], loss: float, engine: Json) -> None:
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
