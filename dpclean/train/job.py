"""The story of one `train` command: find what is there, begin or resume, fit, test, finish."""

from __future__ import annotations

import io
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import load, save
from torch import Tensor

from dpclean.build import build
from dpclean.device import choose_device, has_bf16
from dpclean.errors import ConflictError, Diverged, InputError, Interrupted
from dpclean.given import given_path, options_of
from dpclean.jobs.durable import write_durably
from dpclean.jobs.record import Record, read_record, write_record
from dpclean.jobs.signals import first_signal
from dpclean.jobs.staging import Staging
from dpclean.progress import Progress, shown_as_asked
from dpclean.threads import choose_threads, computing_with
from dpclean.train import model as models
from dpclean.train.images import prepare
from dpclean.train.material import Material
from dpclean.train.options import Given, Options
from dpclean.train.results import Plan, TrainResult
from dpclean.train.seal import seal
from dpclean.train.trainer import Epoch, Trainer

CHECKPOINT_SECONDS = 10.0
STEPS_SAMPLED_BY_PLAN = 4
JOB_NAME, CHECKPOINT_NAME, WARM_NAME = "job.json", "checkpoint.pt", "warm.safetensors"

_BUSY = (
    "fewer threads than cores, as other programs kept cores busy; weights depend on the number, which model.json has;"
    " --threads fixes it"
)


def train(
    clean: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | bool | None = None,
    say: Callable[[str], None] | None = None,
    **options: Unpack[Given],
) -> TrainResult:
    """Train a classifier on what `sanitize` wrote; the same call again goes on, or finds OUT complete.

    say: gets at the beginning, as a sentence without a full stop, why no certificate can rest on the model.
    options: the fields of `dpclean.train.options.Options`. The same seed gives the same weights on the same machine
    with the same number of threads. Raises UsageError, InputError, SetupError, ConflictError, Diverged, or Interrupted
    after a signal, each with a remedy.
    """
    with shown_as_asked(progress) as show:
        job = _Job(Path(clean), Path(out), options_of(Options, "train", options), show, say or (lambda _: None))
        with job.staging, computing_with(job.choose_threads()):
            return job.run()


def plan(clean: str | os.PathLike[str], out: str | os.PathLike[str], **options: Unpack[Given]) -> Plan:
    """What `train` with the same arguments would do, from a few steps; writes nothing."""
    job = _Job(Path(clean), Path(out), options_of(Options, "train", options), lambda _: None)
    with computing_with(job.choose_threads()):
        return job.plan()


class _Job:
    """One command's paths and options, and the steps from listing to commit."""

    def __init__(
        self,
        clean: Path,
        out: Path,
        options: Options,
        progress: Callable[[Progress], None],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.options = options
        self.progress = progress
        self.say = say
        self.staging = Staging(out)
        self.out = self.staging.out
        self.device = choose_device(options.device)
        self.begun = time.monotonic()
        self.busy = False
        clean = given_path(clean).resolve()
        self.staging.check_apart(clean, options.test, options.init, options.warm_start)
        self.material = Material(clean, self.options)

    def choose_threads(self) -> int | None:
        """Of how many threads; those that an interrupted job was begun with, as the weights depend on their number."""
        if self.options.threads is None and not self.options.overwrite and (begun := self._begun()) is not None:
            recorded: int | None = begun.environment.get("threads")
            return recorded
        threads = choose_threads(self.options.threads)
        self.busy = threads is not None and self.options.threads is None
        return threads

    def run(self) -> TrainResult:
        """The result, whether the work is done now, was begun earlier, or had been finished before."""
        finished = self._finished()
        if finished is not None:
            return self._result(finished, already_complete=True)
        for reason in self.material.told_at_once():
            self.say(f"not certifiable: {reason}")
        record = Record("train", self.material.parameters, self._engine(), {})
        if not self._resumes():
            self.staging.start()
            write_record(self.staging.partial / JOB_NAME, record)
        try:
            with first_signal() as interrupted:
                trainer, curve = self._trained(interrupted)
        except (Diverged, InputError):  # nothing can come of it
            self.staging.discard()
            raise
        description = seal(self.staging.partial, self.out, self.material, trainer, curve, self._host())
        for name in (JOB_NAME, CHECKPOINT_NAME, WARM_NAME):
            (self.staging.partial / name).unlink(missing_ok=True)
        self.staging.commit()
        return self._result(description)

    # -- what is there already

    def _finished(self) -> models.Description | None:
        """What a complete OUT says; None where there is work to do. Refuses an OUT that is something else."""
        if not self.out.exists():
            return None
        if not self.out.is_dir():
            raise ConflictError(f"{str(self.out)!r} is a file", "choose another --out")
        description = models.read_description(self.out)
        if description is None:
            if any(self.out.iterdir()):
                message = f"{str(self.out)!r} is not empty and is no model of dpclean's"
                raise ConflictError(message, "choose another --out")
            return None
        if self.options.overwrite:
            return None
        self._refuse_changes("was made", description.parameters, self.material.parameters)
        return description

    def _begun(self) -> Record | None:
        """What an interrupted job was begun with, None where there is none."""
        return read_record(self.staging.partial / JOB_NAME)

    def _resumes(self) -> bool:
        """Whether to go on with what an interrupted job left; refuses changed parameters."""
        begun = None if self.options.overwrite else self._begun()
        if begun is None:
            return False
        self._refuse_changes("was begun", begun.parameters, self.material.parameters)
        self._refuse_changes("was begun", begun.environment, self._engine())
        return True

    def _refuse_changes(self, what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        changed = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
        if changed:
            told = ", ".join(f"{name.replace('_', '-')} ({_short(old, new, name)})" for name in changed)
            raise ConflictError(
                f"{str(self.out)!r} {what} with other parameters: {told}",
                "choose another --out, or --overwrite to start again",
            )

    def _engine(self) -> dict[str, Any]:
        """What decides the weights beside the parameters."""
        cpu = self.device.type == "cpu"
        return {
            "device": torch.backends.cpu.get_cpu_capability() if cpu else torch.cuda.get_device_name(self.device),
            "bf16": has_bf16(self.device),
            "threads": torch.get_num_threads() if cpu else None,
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "dpclean": build(),
        }

    def _host(self) -> dict[str, str]:
        versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
        engine = {name: str(value) for name, value in self._engine().items() if value is not None}
        return {**versions, **engine, "device_type": self.device.type, "platform": platform.platform()}

    # -- fit

    def _trained(self, interrupted: threading.Event) -> tuple[Trainer, list[Epoch]]:
        """The fitted trainer and its curve; begun on raw data first where that was asked for."""
        init = self.material.init.weights if self.material.init else None
        if self.material.warm is not None:
            init = self._warmed(interrupted)
        trainer = self._trainer(init)
        return trainer, self._fit(trainer, self.material.tensor, self._labels(), "train", interrupted)

    def _trainer(self, init: Mapping[str, Tensor] | None) -> Trainer:
        material = self.material
        classes = len(material.inputs.train.classes)
        return Trainer(material.recipe, classes, size=material.size, device=self.device, init=init)

    def _labels(self) -> Tensor:
        return torch.from_numpy(self.material.inputs.train.labels)

    def _warmed(self, interrupted: threading.Event) -> dict[str, Tensor]:
        """Weights after some epochs on the raw data (arXiv 2403.11981, section 4.2)."""
        path = self.staging.partial / WARM_NAME
        if not path.exists():
            material, warm = self.material, self.material.warm
            assert warm is not None
            recipe = replace(material.recipe, epochs=self.options.warm_epochs, least_steps=0)
            classes = len(material.inputs.train.classes)
            trainer = Trainer(recipe, classes, size=material.size, device=self.device)
            images = prepare(warm.images.pixels, material.size)
            self._fit(trainer, images, torch.from_numpy(warm.images.labels), "warm", interrupted)
            write_durably(path, save(trainer.state_dict()))
        return load(path.read_bytes())

    def _fit(
        self, trainer: Trainer, images: Tensor, labels: Tensor, phase: str, interrupted: threading.Event
    ) -> list[Epoch]:
        """One fit from its last checkpoint on, with a checkpoint now and then and at the first signal."""
        path = self.staging.partial / CHECKPOINT_NAME
        curve: list[Epoch] = []
        resume = torch.load(path, weights_only=True, map_location=self.device) if path.exists() else None
        if resume is not None and resume["phase"] == phase:
            curve = [Epoch(**fields) for fields in resume["curve"]]
        else:
            resume = None
        began = saved = time.monotonic()
        first: int | None = None

        def on_step(done: int, steps: int) -> None:
            nonlocal first, saved
            now = time.monotonic()
            first = done - 1 if first is None else first
            left = (now - began) * (steps - done) / (done - first)
            self.progress(Progress(done, steps, "steps", left, "on raw data" if phase == "warm" else ""))
            stopped = interrupted.is_set() and done < steps
            if stopped or now - saved >= CHECKPOINT_SECONDS:
                state = {**trainer.checkpoint(), "phase": phase, "curve": [asdict(epoch) for epoch in curve]}
                _write_checkpoint(path, state)
                saved = time.monotonic()
            if stopped:
                raise Interrupted(f"stopped after {done} of {steps} steps, saved", "the same command goes on")

        trainer.fit(images, labels, seed=self.options.seed, on_epoch=curve.append, on_step=on_step, resume=resume)
        return curve

    # -- tell

    def _result(self, told: models.Description, *, already_complete: bool = False) -> TrainResult:
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
            already_complete=already_complete,
            seconds=round(time.monotonic() - self.begun, 3),
            warnings=self.material.warnings() + [_BUSY] * (self.busy and not already_complete),
        )

    # -- the look ahead

    def plan(self) -> Plan:
        """A few steps are done and timed; the first one pays for what is set up once and is not counted."""

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

        material = self.material
        known = material.inputs.train
        trainer = self._trainer(material.init.weights if material.init else None)
        try:
            trainer.fit(material.tensor, self._labels(), seed=self.options.seed, on_step=on_step)
        except Enough:
            pass
        return Plan(
            out=str(self.out),
            recipe=material.recipe.as_dict(),
            images=len(known),
            classes=list(known.classes),
            size=material.size,
            test_source=material.inputs.test_source or None,
            test_images=len(material.inputs.test) if material.inputs.test else 0,
            steps=steps,
            seconds=round((times[-1] - times[0]) / max(1, len(times) - 1) * steps, 1),
            bytes=len(save(trainer.state_dict())),
            warnings=material.warnings(),
        )


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_durably(path, buffer.getvalue())


def _short(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    """Then and now, of a whole recipe only what differs."""
    before, now = old.get(name), new.get(name)
    if isinstance(before, dict) and isinstance(now, dict):
        differing = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
        return ", ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in differing)
    return f"{str(before)[:16]}, now {str(now)[:16]}"
