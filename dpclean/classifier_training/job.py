"""The story of one `train` command: find what is there, begin or resume, fit, test, finish."""

from __future__ import annotations

import contextlib
import io
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from dpclean.build import build
from dpclean.classifier_training.noise_augmentation import NoiseAugmentation
from dpclean.classifier_training.options import TrainKeywords, TrainOptions
from dpclean.classifier_training.results import TrainDryRun, TrainResult
from dpclean.classifier_training.save import write_outputs
from dpclean.classifier_training.training_set import TrainingSet
from dpclean.device import choose_device, has_bf16
from dpclean.errors import Diverged, InputError, Interrupted
from dpclean.jobs.checks import given_path, options_of
from dpclean.jobs.durable import sealed, unsealed, write_durably
from dpclean.jobs.job import COMPLETE, Call, Hopeless, Job, Tell, run
from dpclean.jobs.record import Json, Record
from dpclean.progress import Pace, Progress, Show
from dpclean.threads import computing_as_begun
from dpclean.train import model as models
from dpclean.train.images import prepare
from dpclean.train.trainer import Epoch, Trainer

CHECKPOINT_SECONDS = 10.0
STEPS_SAMPLED_BY_PLAN, IMAGES_SAMPLED_BY_PLAN = 4, 64
CHECKPOINT_NAME, WARM_NAME = "checkpoint.pt", "warm.safetensors"

_BUSY = (
    "fewer threads than cores, as other programs kept cores busy; weights depend on the number, which model.json has;"
    " --threads fixes it"
)


def train(
    clean: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Show | bool | None = None,
    say: Callable[[str], None] | None = None,
    **options: Unpack[TrainKeywords],
) -> TrainResult:
    """Train a classifier on what `sanitize` wrote; the same call again goes on, or finds OUT complete.

    say: gets at the beginning, as a sentence without a full stop, why no certificate can rest on the model.
    options: the fields of `TrainOptions`. The same seed gives the same weights on the same machine
    with the same number of threads. Raises UsageError, InputError, SetupError, ConflictError, Diverged, or Interrupted
    after a signal, each with a remedy.
    """
    asked = options_of(TrainOptions, "train", options)
    return run(TrainJob(Path(clean), Path(out), asked, say), overwrite=asked.overwrite, progress=progress)


def dry_run(
    clean: str | os.PathLike[str], out: str | os.PathLike[str], **options: Unpack[TrainKeywords]
) -> TrainDryRun:
    """What `train` with the same arguments would do, from a few steps; writes nothing."""
    return TrainJob(Path(clean), Path(out), options_of(TrainOptions, "train", options)).look_ahead()


class TrainJob(Job[TrainResult]):
    kind = "train"
    marks = (models.NAME,)

    def __init__(self, clean: Path, out: Path, options: TrainOptions, say: Callable[[str], None] | None = None) -> None:
        super().__init__(out)
        self.options = options
        self.say = say or (lambda _: None)
        self.device = choose_device(options.device)
        self.busy = False
        self.clean = given_path(clean).resolve()
        self.training_set = TrainingSet(self.clean, self.options)
        self.augmentation: NoiseAugmentation | None = None

    def inputs(self) -> list[str | os.PathLike[str] | None]:
        o = self.options
        return [self.clean, o.test, o.init, o.warm_start, o.denoiser]

    def parameters(self) -> Json:
        return self.training_set.parameters

    def environment(self) -> Json:
        cpu = self.device.type == "cpu"
        return {
            "device": torch.backends.cpu.get_cpu_capability() if cpu else torch.cuda.get_device_name(self.device),
            "bf16": has_bf16(self.device),
            "threads": torch.get_num_threads() if cpu else None,
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "dpclean": build(),
            **({} if self.augmentation is None else {"denoiser": self.augmentation.engine}),
        }

    def made_with(self) -> Json:
        return self._description().parameters

    def _description(self) -> models.Description:
        description = models.read_description(self.out)
        assert description is not None  # it is a mark of OUT
        return description

    @contextmanager
    def ready(self, record: Record | None) -> Iterator[None]:
        """As many threads as an interrupted job was begun with, as the weights depend on their number."""
        for reason in self.training_set.told_at_once():
            self.say(f"not certifiable: {reason}")
        before = torch.get_num_threads()
        with computing_as_begun(record.environment if record else None, self.options.threads):
            self.busy = self.options.threads is None and torch.get_num_threads() < before
            self.augmentation = self._augmentation(record)
            yield

    def _augmentation(self, record: Record | None) -> NoiseAugmentation | None:
        """On an interrupted job in the batches that it was begun with, on which results in half precision depend."""
        training_set, sigma = self.training_set, self.options.sigma_augment
        if training_set.denoiser is None or sigma is None:
            return None
        begun = record.environment.get("denoiser", {}) if record is not None else {}
        return NoiseAugmentation(
            training_set.denoiser, sigma, training_set.method,
            seed=self.options.seed, device=self.options.device, batch_pixels=begun.get("batch_pixels"),
        )  # fmt: skip

    def begin(self) -> Json:
        return {}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        try:
            self.trainer, self.curve = self._trained(stop, tell)
        except (Diverged, InputError) as error:
            raise Hopeless(error) from error
        return True

    def save(self, record: Record) -> None:
        host = self._host(record.environment)
        write_outputs(
            self.staging.partial, self.out, self.training_set, self.trainer, self.curve, host, self.augmentation
        )

    def _host(self, environment: Json) -> dict[str, str]:
        versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
        told = {name: str(value) for name, value in environment.items() if isinstance(value, bool | int | str)}
        return {**versions, **told, "device_type": self.device.type, "platform": platform.platform()}

    # -- fit

    def _trained(self, stop: threading.Event, tell: Tell) -> tuple[Trainer, list[Epoch]]:
        """The fitted trainer and its curve; begun on raw data first where that was asked for."""
        init = self.training_set.init.weights if self.training_set.init else None
        if self.training_set.warm is not None:
            init = self._warmed(stop, tell)
        trainer = self._trainer(init)
        return trainer, self._fit(trainer, self._images(stop, tell), self._labels(), "train", stop, tell)

    def _images(self, stop: threading.Event, tell: Tell) -> Tensor | Callable[[int], Tensor]:
        """The training images, or with --sigma-augment those of an epoch."""
        augmentation, images = self.augmentation, self.training_set.inputs.train
        if augmentation is None:
            return self.training_set.tensor
        pixels = sum(image.shape[0] * image.shape[1] for image in images.pixels)

        def of_epoch(epoch: int) -> Tensor:
            done, pace = 0.0, Pace()

            def on_batch(some: float) -> None:
                nonlocal done
                done += some
                finished = round(len(images) * done / pixels)
                left = pace.seconds_left(done, pixels)
                tell(Progress(finished, len(images), "images", left, f"noised and denoised for epoch {epoch}"))
                if stop.is_set():
                    raise Interrupted(f"stopped while noising for epoch {epoch}", "the same command goes on")

            return augmentation.images(images, self.training_set.recipe.size, epoch=epoch, on_batch=on_batch)

        return of_epoch

    def _trainer(self, init: Mapping[str, Tensor] | None) -> Trainer:
        training_set = self.training_set
        classes = len(training_set.inputs.train.classes)
        return Trainer(training_set.recipe, classes, size=training_set.size, device=self.device, init=init)

    def _labels(self) -> Tensor:
        return torch.from_numpy(self.training_set.inputs.train.labels)

    def _warmed(self, stop: threading.Event, tell: Tell) -> dict[str, Tensor]:
        """Weights after some epochs on the raw data (arXiv 2403.11981, section 4.2)."""
        path = self.staging.work / WARM_NAME
        if not path.exists():
            training_set, warm = self.training_set, self.training_set.warm
            assert warm is not None
            recipe = replace(training_set.recipe, epochs=self.options.warm_epochs, least_steps=0)
            classes = len(training_set.inputs.train.classes)
            trainer = Trainer(recipe, classes, size=training_set.size, device=self.device)
            images = prepare(warm.images.pixels, training_set.size)
            self._fit(trainer, images, torch.from_numpy(warm.images.labels), "warm", stop, tell)
            write_durably(path, sealed(save(trainer.state_dict())))
        return load(unsealed(path))

    def _fit(
        self,
        trainer: Trainer,
        images: Tensor | Callable[[int], Tensor],
        labels: Tensor,
        phase: str,
        stop: threading.Event,
        tell: Tell,
    ) -> list[Epoch]:
        """One fit from its last checkpoint on, with a checkpoint now and then and at the first signal."""
        path = self.staging.work / CHECKPOINT_NAME
        curve: list[Epoch] = []
        resume = _read_checkpoint(path, self.device) if path.exists() else None
        if resume is not None and resume["phase"] == phase:
            curve = [Epoch(**fields) for fields in resume["curve"]]
        else:
            resume = None
        saved = time.monotonic()
        pace: Pace | None = None

        def on_step(done: int, steps: int) -> None:
            nonlocal pace, saved
            pace = pace or Pace(done)
            left = pace.seconds_left(done, steps)
            tell(Progress(done, steps, "steps", left, "on raw data" if phase == "warm" else ""))
            stopped = stop.is_set() and done < steps
            ends_epoch = callable(images) and bool(curve) and done == curve[-1].number * steps // curve[-1].epochs
            if stopped or ends_epoch or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                state = {**trainer.checkpoint(), "phase": phase, "curve": [asdict(epoch) for epoch in curve]}
                _write_checkpoint(path, state)
                saved = time.monotonic()
            if stopped:
                raise Interrupted(f"stopped after {done} of {steps} steps, saved", "the same command goes on")

        trainer.fit(images, labels, seed=self.options.seed, on_epoch=curve.append, on_step=on_step, resume=resume)
        return curve

    # -- tell

    def result(self, call: Call) -> TrainResult:
        told = self._description()
        accuracy = told.accuracy
        per_class = accuracy.per_class if accuracy else []
        return TrainResult(
            out=str(self.out),
            recipe=told.recipe.as_dict(),
            seed=told.seed,
            device=told.host["device_type"],
            images=told.data.images,
            classes=told.classes,
            test_source=accuracy.source if accuracy else None,
            test_images=accuracy.images if accuracy else 0,
            accuracy=accuracy.correct / accuracy.images if accuracy else None,
            accuracy_per_class={c.name: c.correct / c.images if c.images else None for c in per_class},
            certifiable=told.certifiable,
            already_complete=call.already_complete,
            seconds=round(call.seconds, 3),
            sigma_augment=told.sigma_augment.sigma if told.sigma_augment else None,
            accuracy_denoised=_share(told.sigma_augment.correct, accuracy) if told.sigma_augment else None,
            warnings=self.training_set.warnings() + [_BUSY] * self.busy,
        )

    # -- the look ahead

    def look_ahead(self) -> TrainDryRun:
        """A few steps are done and timed; the first one pays for what is set up once and is not counted."""
        complete = self.foresee(overwrite=self.options.overwrite)

        class Enough(Exception):
            pass

        times: list[float] = []
        steps = 0

        def on_step(done: int, total: int) -> None:
            nonlocal steps
            steps = total
            times.append(time.monotonic())
            if done == min(STEPS_SAMPLED_BY_PLAN, total):
                raise Enough

        training_set = self.training_set
        known = training_set.inputs.train
        trainer = self._trainer(training_set.init.weights if training_set.init else None)
        with computing_as_begun(None, self.options.threads), contextlib.suppress(Enough):
            noising = self._seconds_an_epoch()
            trainer.fit(training_set.tensor, self._labels(), seed=self.options.seed, on_step=on_step)
        epochs = steps // math.ceil(len(known) / training_set.recipe.batch_size)
        return TrainDryRun(
            out=str(self.out),
            recipe=training_set.recipe.as_dict(),
            images=len(known),
            classes=list(known.classes),
            size=training_set.size,
            test_source=training_set.inputs.test_source or None,
            test_images=len(training_set.inputs.test) if training_set.inputs.test else 0,
            steps=steps,
            seconds=round((times[-1] - times[0]) / max(1, len(times) - 1) * steps + noising * epochs, 1),
            bytes=len(save(trainer.state_dict())),
            warnings=training_set.warnings() + [COMPLETE] * complete,
        )

    def _seconds_an_epoch(self) -> float:
        """Of noising and denoising for it, judged by the first images."""
        augmentation, images = self._augmentation(None), self.training_set.inputs.train
        if augmentation is None:
            return 0.0
        first = images.take(np.arange(len(images)) < IMAGES_SAMPLED_BY_PLAN)
        begun = time.monotonic()
        augmentation.images(first, self.training_set.recipe.size, epoch=1)
        pixels, all_pixels = (sum(map(np.size, some.pixels)) for some in (first, images))
        return (time.monotonic() - begun) * float(all_pixels / pixels)


def _share(correct: int | None, accuracy: models.Accuracy | None) -> float | None:
    return None if correct is None or accuracy is None else correct / accuracy.images


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_durably(path, sealed(buffer.getvalue()))


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(unsealed(path)), weights_only=True, map_location=device)
    return state
