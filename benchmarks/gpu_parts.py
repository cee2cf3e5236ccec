"""What gpu_check.py runs: `python gpu_parts.py PART RESULT SCRATCH`. A part is a function that gives back its figures.

Ratios are against a rival on the same card, in turns, in one process. On the CPU (--rehearse) sizes are tiny.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from machine_facts import REPOSITORY
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from dpclean.denoise.denoiser import Denoiser

SIGMA, KEY = 0.25, bytes(range(32))
QUEUED = 8  # calls of a kernel between two waits for the card
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FITS = ((32, 3e-4), (256, 3e-4), (256, 1e-3), (1024, 1e-3))  # patches in a step, and the highest learning rate
FIT_SIGMAS = (0.1, 0.25, 0.5)
Result = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """Where and how large."""

    rehearse: bool
    scratch: Path
    data: Path | None

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def size(self, whole: int, tiny: int) -> int:
        return tiny if self.rehearse else whole

    @property
    def batch_size(self) -> int | None:
        """Of the denoiser, in images of 32 x 32."""
        return 8 if self.rehearse else None

    def denoiser(self, source: str = "natural", sigma: float = SIGMA) -> Denoiser:
        from dpclean.denoise.denoiser import Denoiser
        from dpclean.denoise.loading import find_denoiser

        batch_pixels = self.batch_size and self.batch_size * 32 * 32
        return Denoiser(find_denoiser(source), sigma, device=self.device, batch_pixels=batch_pixels)

    def wait(self) -> None:
        import torch

        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, with everything that it started."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def turns(self, rivals: dict[str, Callable[[], object]], rounds: int, warm: int = 2) -> dict[str, list[float]]:
        """Seconds of each rival, in turns."""
        found: dict[str, list[float]] = {name: [] for name in rivals}
        for number in range(warm + rounds):
            for name, work in rivals.items():
                spent = self.seconds(work)
                if number >= warm:
                    found[name].append(spent)
        return found

    def pictures(self, split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """uint8 [count,32,32,3] and labels: CIFAR-10's, repeated as needed, where INPUTS has them, else made up."""
        from safetensors.numpy import load_file

        paths = sorted((self.data / f"cifar10_{split}").glob("*.safetensors")) if self.data else []
        if paths:
            shards = [load_file(path) for path in paths]
            images = np.concatenate([shard["images"] for shard in shards])
            labels = np.concatenate([shard["labels"] for shard in shards])
        else:
            number = np.random.default_rng(0 if split == "train" else 1)
            labels = number.integers(0, 10, count)
            small = number.integers(0, 256, (count, 4, 4, 3)) // 2 + labels[:, None, None, None] * 12
            images = small.astype(np.uint8).repeat(8, 1).repeat(8, 2)
        places = np.arange(count) % len(images)
        return images[places], labels[places].astype(np.int64)

    def shard(self, split: str, count: int) -> Path:
        """A folder with one shard of these pictures."""
        from safetensors.numpy import save_file

        folder = self.scratch / f"{split}-{count}"
        folder.mkdir()
        images, labels = self.pictures(split, count)
        tensors: dict[str, NDArray[Any]] = {"images": images, "labels": labels}
        save_file(tensors, folder / "all.safetensors", {"class_names": json.dumps(CLASSES)})
        return folder

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of a large copy on the device, read and written."""
        import torch

        source = torch.ones(self.size(1 << 30, 1 << 20), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        spent = self.turns({"copy": lambda: target.copy_(source)}, 5)["copy"]
        return 2 * source.numel() / statistics.median(spent)


def ran(command: list[str], **environment: str) -> str:
    """Runs a command, shows what it printed, and ends the part if it failed."""
    print("$", *command, flush=True)
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


# -- is it right


def facts(check: Check) -> Result:
    """Driver, compiler, torch, card."""
    import torch

    nvcc = shutil.which("nvcc")
    found: Result = {"torch": torch.__version__, "cuda of torch": torch.version.cuda}
    found["nvcc"] = ran([nvcc, "--version"]).splitlines()[-2] if nvcc else None
    if not check.rehearse:
        card = torch.cuda.get_device_properties(0)
        found["card"] = f"{card.name}, {card.multi_processor_count} multiprocessors, {card.total_memory >> 20} MiB"
        found["driver"] = ran(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).strip()
    found["copy GB/s"] = round(check.bandwidth / 1e9)
    return found


def build(check: Check) -> Result:
    """The extension, in place; a rehearsal builds it aside."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    aside = ["--build-lib", str(check.scratch / "lib"), "--build-temp", str(check.scratch / "temp")]
    if check.rehearse:
        ran([*command, *aside], DPCLEAN_BUILD_CUDA="0", CXX=os.environ.get("CXX", "g++"))
        return {}
    ran([*command, "--inplace"])
    built = ran([sys.executable, "-c", "from dpclean.kernels import cuda_built; print(cuda_built())"]).strip()
    if built != "True":
        sys.exit("built without CUDA: is nvcc on the PATH?")
    return {"cuda": built}


def tests(check: Check) -> Result:
    """Everything that is marked gpu; known answers first among them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += [str(p) for p in sorted((REPOSITORY / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text()]
    return {"pytest": last_line(ran(command))}


def once(check: Check) -> Result:
    """Every kernel on a few odd shapes, for the tools that watch one: nothing else of torch runs on the card."""
    import torch

    from dpclean.denoise.fused_convolution import _summed
    from dpclean.denoise.group_norm import group_norm_silu
    from dpclean.noise import add_noise, to_model_input, to_uint8

    for shape in ((3, 5, 7, 3), (2, 9, 3, 1), (40, 32, 32, 3)):
        images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
        there = images.to(check.device)
        kwargs: dict[str, Any] = {"key": KEY, "run": 1, "indices": range(len(images))}
        for sigma in (0.0, 0.25, 4.0):
            assert torch.equal(add_noise(there, sigma, **kwargs).cpu(), add_noise(images, sigma, **kwargs))
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for channels_last in (False, True):
                layout: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last, **kwargs}
                noised = to_model_input(images, SIGMA, 0.5, **layout)
                on_card = to_model_input(there, SIGMA, 0.5, **layout)
                assert torch.equal(on_card.cpu(), noised)
                expected, _ = to_uint8(noised, noised, 0.5, prediction_type="v_prediction")
                found, finite = to_uint8(on_card, on_card, 0.5, prediction_type="v_prediction")
                assert torch.equal(found.cpu(), expected) and finite.cpu().all()
    # natural's widest layer; odd numbers; too large for one block's memory
    for norm_shape, groups in (((3, 96, 32, 32), 16), ((2, 30, 35, 1), 3), ((2, 64, 67, 41), 2)):
        x, weight, bias, added = torch.randn(norm_shape), *torch.randn(3, norm_shape[1])
        for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 4e-3), (torch.float32, 1e-4)):
            given, more = x.to(dtype, memory_format=torch.channels_last), added.to(dtype)
            on_card, w, b, m = (t.to(check.device) for t in (given, weight, bias, more))
            whole = given.float() + more.float()[:, None, None]
            for silu in (False, True):
                normalized = torch.nn.functional.group_norm(whole, groups, weight, bias, 1e-5)
                normalized = torch.nn.functional.silu(normalized) if silu else normalized
                own = group_norm_silu(on_card, w, b, groups, 1e-5, silu, m).cpu().float()
                assert torch.allclose(own, normalized, tolerance, tolerance), (norm_shape, dtype, silu)
            if on_card.is_cuda:
                total = _summed(on_card.clone(), on_card, m, None).cpu().float()
                assert torch.allclose(total, given.float() + whole, tolerance, tolerance), (norm_shape, dtype)
    return {}


def watched(check: Check, tool: str) -> Result:
    arguments = [sys.executable, __file__, "once", str(check.scratch / "once.json"), str(check.scratch)]
    if check.rehearse:
        ran([*arguments, "--rehearse"])
        return {}
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    printed = ran([sanitizer, "--tool", tool, "--error-exitcode", "9", *arguments], PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return {tool: last_line(printed)}


def memcheck(check: Check) -> Result:
    return watched(check, "memcheck")


def racecheck(check: Check) -> Result:
    return watched(check, "racecheck")


def commands(check: Check) -> Result:
    """The commands as users give them: shards and photographs sanitized, a model trained, a certificate checked."""
    dpclean, at = [sys.executable, "-m", "dpclean"], check.scratch
    there = ["--device", check.device, "--quiet"]
    raw, test = check.shard("train", check.size(2000, 40)), check.shard("test", check.size(500, 20))
    seconds: Result = {}

    def step(name: str, *arguments: object) -> None:
        begun = time.perf_counter()
        ran([*dpclean, *map(str, arguments)])
        seconds[f"{name}, s"] = round(time.perf_counter() - begun, 1)

    step("sanitize shards", "sanitize", raw, "--sigma", SIGMA, "--out", at / "clean", *there)
    photos(at / "photos", check.size(24, 2))
    step("sanitize photos", "sanitize", at / "photos", "--sigma", SIGMA, "--out", at / "clean-photos", *there)
    step("train", "train", at / "clean", "--test", test, "--recipe", "tiny", "--out", at / "model", *there)
    step("predict", "predict", at / "model", at / "photos", "--device", check.device)
    step(
        "certify", "certify", at / "clean", "--test", test, "--runs", check.size(20, 8), "--recipe", "tiny",
        "--alpha", check.size(1, 500) / 1000, "--out", at / "certificate", *there,
    )  # fmt: skip
    step("verify", "verify", at / "certificate")
    return seconds


def photos(folder: Path, count: int) -> None:
    """Smooth pictures of 481 x 321 in two classes."""
    from PIL import Image

    number = np.random.default_rng(2)
    for place in range(count):
        (folder / f"class{place % 2}").mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(number.integers(0, 256, (9, 13, 3), dtype=np.uint8))
        small.resize((481, 321), Image.Resampling.BICUBIC).save(folder / f"class{place % 2}" / f"{place}.png")


# -- is it fast


def noise(check: Check) -> Result:
    """Both kernels against torch on the same device, and the share of memory bandwidth that must be moved."""
    import noise_kernels
    import torch

    from dpclean.noise import to_model_input, to_uint8

    count, abar = check.size(16384, 16), 0.5
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, device=check.device)
    samples, indices, found = images.numel(), np.arange(count), {}
    for layout, memory_format in noise_kernels.LAYOUTS.items():
        x = torch.empty(count, 3, 32, 32, dtype=torch.bfloat16, device=check.device, memory_format=memory_format)
        drawn, cast = torch.zeros(samples, device=check.device), torch.zeros_like(x)
        e = torch.randn(x.shape, device=check.device).to(torch.bfloat16, memory_format=memory_format)
        out = torch.empty_like(images)

        def by_torch(drawn: torch.Tensor = drawn, cast: torch.Tensor = cast) -> None:
            drawn.normal_(0.0, SIGMA)
            (cast if cast.is_contiguous() else cast.permute(0, 2, 3, 1)).view(-1).copy_(drawn)

        def forward(x: torch.Tensor = x) -> None:
            to_model_input(images, SIGMA, abar, key=KEY, run=1, indices=indices, out=x)

        def back(x: torch.Tensor = x, e: torch.Tensor = e, out: torch.Tensor = out) -> None:
            to_uint8(x, e, abar, prediction_type="epsilon", out=out)

        def chain(x: torch.Tensor = x, e: torch.Tensor = e) -> None:
            noise_kernels.chain(x, e)

        jobs: list[tuple[str, dict[str, Callable[[], object]], int]] = [
            ("noise to bf16", {"torch": by_torch, "dpclean": forward}, 3 * samples),
            ("prediction to uint8", {"torch": chain, "dpclean": back}, 5 * samples),
        ]
        for what, rivals, moved in jobs:
            # queued as a job queues them: what a call costs the host hides behind the calls before it
            queued = {name: lambda work=work: [work() for _ in range(QUEUED)] for name, work in rivals.items()}
            spent = check.turns(dict(queued), check.size(25, 2))
            ratio = statistics.median(t / o for t, o in zip(spent["torch"], spent["dpclean"], strict=True))
            own = statistics.median(spent["dpclean"]) / QUEUED
            found[f"{what}, {layout}"] = {
                "ratio": round(ratio, 2), "microseconds": round(own * 1e6, 1), "images": count,
                "share of bandwidth": round(moved / own / check.bandwidth, 3),
            }  # fmt: skip
    return found


def group_norm(check: Check) -> Result:
    """GroupNorm and SiLU of the network's layers against torch's two kernels, and the share of memory bandwidth."""
    import torch

    from dpclean.denoise.group_norm import group_norm_silu

    found: Result = {}
    for channels, edge, count in ((64, 32, 1024), (192, 16, 1024), (256, 8, 1024), (64, 224, 32)):
        shape = (check.size(count, 1), channels, edge, edge)
        x = torch.randn(shape, device=check.device).to(torch.bfloat16, memory_format=torch.channels_last)
        weight, bias = torch.randn(2, channels, device=check.device)
        low = weight.to(torch.bfloat16), bias.to(torch.bfloat16)

        def by_torch(x: torch.Tensor = x, low: tuple[torch.Tensor, torch.Tensor] = low) -> None:
            torch.nn.functional.silu(torch.nn.functional.group_norm(x, 16, *low, 1e-5))

        def own(x: torch.Tensor = x, weight: torch.Tensor = weight, bias: torch.Tensor = bias) -> None:
            group_norm_silu(x, weight, bias, 16, 1e-5)

        spent = check.turns({"torch": by_torch, "dpclean": own}, check.size(25, 2))
        seconds = statistics.median(spent["dpclean"])
        found[f"{shape[0]} x {channels} of {edge}"] = {
            "ratio": round(statistics.median(t / o for t, o in zip(spent["torch"], spent["dpclean"], strict=True)), 2),
            "microseconds": round(seconds * 1e6, 1),
            "share of bandwidth": round(2 * 2 * x.numel() / seconds / check.bandwidth, 3),
        }
    return found


def contenders(check: Check, sizes: tuple[tuple[int, int], ...], compiled: str | None = None) -> Result:
    """Images a second at 32 pixels and megapixels a second at 224: the engine against the same network in diffusers.

    sizes: (images, edge). compiled: torch.compile's mode for two more rivals.
    """
    import torch

    from dpclean.denoise.denoiser import DTYPES
    from dpclean.denoise.loading import find_denoiser, load_through_diffusers

    denoiser = check.denoiser()
    dtype, level = DTYPES[denoiser.dtype], denoiser.level
    eager = load_through_diffusers(find_denoiser("natural")).to(check.device, dtype, memory_format=torch.channels_last)
    timestep = torch.tensor(level.timestep, device=check.device)
    found: Result = {"dtype": denoiser.dtype}
    for batch, edge in sizes:
        x = torch.randn(batch, 3, edge, edge, device=check.device).to(dtype, memory_format=torch.channels_last)
        rivals: dict[str, Callable[[], torch.Tensor]] = {
            "dpclean": lambda x=x: denoiser._predict(x),  # type: ignore[misc]
            "dpclean eager": lambda x=x: denoiser._network(x),  # type: ignore[misc]
            "diffusers": lambda x=x: eager(x, timestep).sample,  # type: ignore[misc]
        }
        if compiled:
            program: Any = torch.compile(eager, dynamic=False, mode=compiled)
            rivals[f"compiled {compiled}"] = lambda x=x, program=program: program(x, timestep).sample  # type: ignore[misc]
        with torch.inference_mode():
            reference = eager(x, timestep).sample.float()
            for name, run in rivals.items():
                begun = time.perf_counter()
                off = float((run().float() - reference).norm() / reference.norm())
                print(f"{name}: first {time.perf_counter() - begun:.1f} s, relative difference {off:.4f}", flush=True)
                assert off < 0.05, (name, off)
            spent = check.turns(dict(rivals), check.size(7, 1))
        for name in rivals:
            rate = batch / statistics.median(spent[name])
            shown = {"images/s": round(rate, 1)} if edge == 32 else {"megapixels/s": round(rate * edge**2 / 1e6, 2)}
            found[f"{name}, {batch} of {edge}"] = shown
            print(name, found[f"{name}, {batch} of {edge}"], flush=True)
    return found


def denoiser(check: Check) -> Result:
    sizes = ((2, 32), (1, 64)) if check.rehearse else ((1024, 32), (4096, 32), (64, 224))
    return contenders(check, sizes) | where_time_goes(check)


def compiled(check: Check) -> Result:
    return contenders(check, ((check.size(1024, 2), 32),), "default" if check.rehearse else "max-autotune")


def where_time_goes(check: Check) -> Result:
    """The kernels of one prediction that take longest, for the log."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    denoiser = check.denoiser()
    images, _ = check.pictures("test", check.size(8192, 8))
    there = [torch.from_numpy(image).to(check.device) for image in images]
    list(denoiser.denoise(enumerate(there), key=KEY))
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not check.rehearse)
    with profile(activities=activities) as seen:
        spent = check.seconds(lambda: list(denoiser.denoise(enumerate(there), key=KEY)))
    by = "self_cpu_time_total" if check.rehearse else "self_cuda_time_total"
    print(seen.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60))
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=60))
    plain = check.seconds(lambda: list(denoiser.denoise(enumerate(there), key=KEY)))
    return {"uint8 to uint8, images/s": round(len(images) / plain), "under the profiler, s": round(spent, 3)}


def training(check: Check) -> Result:
    """Seconds of one training on as many images as CIFAR-10 has: the step replayed, launched, and compiled."""
    import threading

    import torch

    from dpclean.train.recipes import find_recipe
    from dpclean.train.trainer import Trainer

    recipe = replace(find_recipe("tiny"), epochs=1, least_steps=3) if check.rehearse else find_recipe("fast")
    pixels, truth = check.pictures("train", check.size(50_000, 40))
    images, labels = torch.from_numpy(pixels).to(check.device), torch.from_numpy(truth).to(check.device)
    test, test_labels = check.pictures("test", check.size(10_000, 40))
    found: Result = {"images": len(images), "recipe": recipe.name}

    def made(**options: Any) -> Trainer:
        return Trainer(recipe, 10, size=32, device=torch.device(check.device), **options)

    def fit(trainer: Trainer, seed: int) -> None:
        trainer.fit(images, labels, seed=seed)

    def report(name: str, first: float, spent: list[float], trainer: Trainer) -> None:
        votes = trainer.predict(torch.from_numpy(test).to(check.device)).numpy()
        right = round(float((votes == test_labels).mean()), 4)
        found[name] = {"first, s": round(first, 2), "s": [round(s, 3) for s in spent], "accuracy": right}
        print(name, found[name], flush=True)

    def measure(name: str, trainer: Trainer, rounds: int) -> None:
        spent = [check.seconds(lambda seed=seed: fit(trainer, seed)) for seed in range(1, 2 + rounds)]  # type: ignore[misc]
        report(name, spent[0], spent[1:], trainer)

    replayed = made()
    measure("replayed", replayed, check.size(3, 1))
    weights = replayed.state_dict()
    fit(replayed, 1 + check.size(3, 1))
    found["replayed again gives the same bits"] = all(
        torch.equal(weights[name], tensor) for name, tensor in replayed.state_dict().items()
    )
    measure("launched", made(replay=False), 0)

    def at_once(count: int) -> None:
        """Trainings side by side, each on a stream of its own."""
        trainers = [made() for _ in range(count)]
        for trainer in trainers:
            fit(trainer, 1)

        def beside(trainer: Trainer) -> None:
            if check.rehearse:
                return fit(trainer, 2)
            with torch.cuda.stream(torch.cuda.Stream()):
                fit(trainer, 2)

        def all_of_them() -> None:
            threads = [threading.Thread(target=beside, args=(trainer,)) for trainer in trainers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        report(f"{count} at once, each", 0.0, [check.seconds(all_of_them) / count], trainers[0])

    at_once(2)
    few = made()
    few.fit(images[:2500], labels[:2500], seed=1)
    steps_seen(check, lambda: few.fit(images[:2500], labels[:2500], seed=1))
    if not check.rehearse:
        compiled = made()
        compiled.network.compile(dynamic=False)
        measure("network compiled, replayed", compiled, 2)
    return found


def steps_seen(check: Check, work: Callable[[], object]) -> None:
    """The kernels of a training that take longest, for the log."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not check.rehearse)
    with profile(activities=activities) as seen:
        work()
        check.wait()
    by = "self_cpu_time_total" if check.rehearse else "self_cuda_time_total"
    print(seen.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90))


def certify(check: Check) -> Result:
    """Seconds of a run, noise to votes, on as many images as CIFAR-10 has."""
    from dpclean.certify.data import Data
    from dpclean.certify.inputs import find_source, read_certified_data
    from dpclean.certify.options import CertifyOptions
    from dpclean.certify.parameters import make_parameters
    from dpclean.certify.run_settings import make_run_settings
    from dpclean.certify.training_runs import TrainingRuns

    count = check.size(50_000, 40)
    raw, test = check.shard("train", count), check.shard("test", check.size(10_000, 20))
    recipe = "tiny" if check.rehearse else "fast"
    asked = CertifyOptions(
        sigma=str(SIGMA), test=test, device=check.device, runs=100, recipe=recipe, batch_size=check.batch_size
    )
    subject = read_certified_data(find_source(raw, asked), asked)
    method = make_run_settings(subject, asked, make_parameters(subject, asked))
    train, points = subject.train, subject.points
    data = Data(train.pixels, train.labels, train.indices, points.pixels, np.arange(len(points)))
    runner = TrainingRuns(method, subject.classes, KEY, check.scratch)
    runner.prepare(data)
    runner.cast(1)
    runner.seconds.clear()
    spent, right = [], []
    for number in range(2, 2 + check.size(2, 1)):
        begun = time.perf_counter()
        votes = runner.cast(number)
        spent.append(round(time.perf_counter() - begun, 2))
        right.append(round(float((votes == points.labels).mean()), 4))
        print(spent, right, runner.seconds, flush=True)
    parts = {part: round(seconds / len(spent), 3) for part, seconds in runner.seconds.items()}
    return {"images": len(train.pixels), "seconds a run": spent, "accuracy": right, "seconds by part": parts}


def shards(check: Check) -> Result:
    """sanitize, shards to shards, against a bare loop over the same denoiser with the data in memory."""
    import sanitize_whole

    count = check.size(50_000, 40)
    raw = check.shard("train", count)
    own, loop, whole, rounds = [], [], [], 1  # each takes 20 s of a card
    for _ in range(rounds):
        own.append(sanitize_whole.sanitize(raw, check.scratch / "out", count)[0])
        process, printed = sanitize_whole.rival("bare-loop", str(raw), "--images", str(count))
        loop.append(float(printed))
        whole.append(process)
        print(own, loop, whole, flush=True)
    beside = sanitize_whole.overhead_of(REPOSITORY, raw, check.scratch / "out")
    return {
        "beside the denoiser, us an image": {name: round(value, 1) for name, value in beside.items()},
        "sanitize, s": [round(s, 2) for s in own], "loop alone, s": [round(s, 2) for s in loop],
        "rival's process, s": [round(s, 2) for s in whole],
        "loop over command": round(statistics.median(t / o for t, o in zip(loop, own, strict=True)), 3),
        "process over command": round(statistics.median(t / o for t, o in zip(whole, own, strict=True)), 3),
    }  # fmt: skip


def fit(check: Check) -> Result:
    """PSNR on images held out, in dB: of `natural`, and of what a minute of `denoiser fit` makes of it, by batch and
    learning rate.
    """
    from dpclean.denoiser_training.fit import fit as fit_denoiser

    trusted = check.shard("train", check.size(50_000, 40))
    images, _ = check.pictures("test", check.size(2_000, 4))
    found: Result = {"natural": psnr(check, "natural", images)}
    for batch_size, rate in FITS[: check.size(len(FITS), 1)]:
        out = check.scratch / f"fit-{batch_size}-{rate}"
        length: dict[str, Any] = {"steps": 2} if check.rehearse else {"minutes": 1.0}
        made = fit_denoiser(
            [trusted], out, init="natural", batch_size=batch_size, learning_rate=rate, device=check.device, **length
        )
        name = f"a minute in batches of {batch_size} at {rate:g}"
        found[name] = {"steps": made.steps, "seconds": made.seconds, **psnr(check, str(out), images)}
        print(name, found[name], flush=True)
    return found


def psnr(check: Check, denoiser: str, images: NDArray[np.uint8]) -> dict[str, float]:
    """By sigma, the mean over images."""
    found = dict[str, float]()
    for sigma in FIT_SIGMAS:
        cleaned = check.denoiser(denoiser, sigma).denoise(enumerate(images), key=KEY)
        squares = [np.square(one.pixels - images[one.index].astype(np.float64)).mean() for one in cleaned]
        found[f"{sigma:g}"] = round(float((20 * np.log10(255) - 10 * np.log10(squares)).mean()), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("result", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--data", type=Path)
    a = parser.parse_args()
    if a.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    result = globals()[a.part](Check(a.rehearse, a.scratch, a.data))
    a.result.write_text(json.dumps(result))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
