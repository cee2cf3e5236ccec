"""One certification run on a CIFAR-10 subset (noise, denoise, train, predict) against the script one would write.

    python benchmarks/certification_run.py INPUTS [--images 1000] [--points 500] [--rounds 3]

INPUTS is what make_inputs.py wrote. The rival: float noise of torch, the same denoiser in diffusers (eager, bf16,
channels-last), and a plain loop over a DataLoader with torchvision's crops and flips around the same network, for the
same number of epochs of the same batches, with SGD, in float32 as such loops are written, and again under bf16
autocast. All stay in one process, so nobody pays for starting; one thread each, as certify runs one a core. Runs
alternate; ratios pair by pair.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine_facts import spread, write_results
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dpclean.certify.data import Data
from dpclean.certify.inputs import find_source, read_certified_data
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_parameters
from dpclean.certify.run_settings import make_run_settings, recipe_of
from dpclean.certify.training_runs import TrainingRuns
from dpclean.denoise.loading import find_denoiser, load_schedule, load_through_diffusers
from dpclean.denoise.schedule import match
from dpclean.train.networks import build
from dpclean.train.recipes import Recipe

SIGMA = 0.25
KEY = b"dpclean benchmark: not a secret."
DENOISE_BATCH = 128


def make_runner(inputs: Path, images: int, points: int, scratch: Path) -> tuple[TrainingRuns, NDArray[np.int64]]:
    """dpclean's own, on the first images and some test points, and the labels of these."""
    asked = CertifyOptions(sigma=str(SIGMA), limit=images, test=inputs / "cifar10_test", device="cpu", runs=100)
    subject = read_certified_data(find_source(inputs / "cifar10_train", asked), asked)
    method = make_run_settings(subject, asked, make_parameters(subject, asked))
    train = subject.train
    tests, labels = spread_over_classes(subject.points.pixels, subject.points.labels, points)
    data = Data(train.pixels, train.labels, train.indices, tests, np.arange(len(tests)))
    runs = TrainingRuns(method, subject.classes, KEY, scratch)
    runs.prepare(data)
    return runs, labels


def spread_over_classes(
    pixels: list[NDArray[np.uint8]], labels: NDArray[np.int64], count: int
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    chosen = np.linspace(0, len(pixels) - 1, count).round().astype(int)
    return [pixels[place] for place in chosen], labels[chosen]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Sanitized images with the transforms of a usual training script."""

    def __init__(self, images: Tensor, labels: Tensor, shift: int) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(images.shape[2], padding=shift, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), int(self.labels[place])


class PlainScript:
    """What somebody would write around diffusers and torch; returns its predictions."""

    def __init__(self, runner: TrainingRuns, recipe: Recipe, classes: int, autocast: bool) -> None:
        files = find_denoiser("natural")
        self.level = match(load_schedule(files).alphas_cumprod, SIGMA)
        self.unet = load_through_diffusers(files).to(torch.bfloat16, memory_format=torch.channels_last)
        self.images = torch.from_numpy(np.stack(runner.data.train)).permute(0, 3, 1, 2)
        self.points = torch.from_numpy(np.stack(runner.data.points)).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(runner.data.labels)
        self.recipe, self.classes, self.autocast = recipe, classes, autocast

    def run(self) -> NDArray[np.int64]:
        network = self.train(self.denoise())
        network.eval()
        found = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            for batch in ((self.points.float() / 255 - 0.5) / 0.25).split(250):
                logits = network(batch)
                found.append((logits + network(batch.flip(3))).argmax(1) if self.recipe.mirror else logits.argmax(1))
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def denoise(self) -> Tensor:
        """v-prediction in one step: uint8 [N,3,H,W]."""
        abar = self.level.alphas_cumprod
        done = []
        for batch in self.images.split(DENOISE_BATCH):
            x = batch.float() / 255
            x = abar**0.5 * (2 * (x + SIGMA * torch.randn_like(x)) - 1)
            x = x.to(torch.bfloat16, memory_format=torch.channels_last)
            v = self.unet(x, self.level.timestep).sample
            clean = abar**0.5 * x.float() - (1 - abar) ** 0.5 * v.float()
            done.append(((clean.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
        return torch.cat(done)

    def train(self, images: Tensor) -> nn.Module:
        recipe = self.recipe
        network = build(recipe, self.classes, int(torch.randint(1 << 30, ())))
        pictures = Pictures(images, self.labels, recipe.translate)
        loader = DataLoader(pictures, batch_size=recipe.batch_size, shuffle=True)
        epochs = max(recipe.epochs, -(-recipe.least_steps // len(loader)))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
        network.train()
        for _ in range(epochs):
            for batch, labels in loader:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                    loss = nn.functional.cross_entropy(network(batch), labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, metavar="INPUTS")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        runner, labels = make_runner(a.inputs, a.images, a.points, Path(scratch))
        assert runner.settings.recipe is not None
        recipe, classes = recipe_of(runner.settings.recipe), int(runner.data.labels.max()) + 1
        number = iter(range(1, 1000))
        contenders: dict[str, Callable[[], NDArray[np.generic]]] = {
            "dpclean": lambda: runner.cast(next(number)),
            "plain, float32": PlainScript(runner, recipe, classes, autocast=False).run,
            "plain, bf16": PlainScript(runner, recipe, classes, autocast=True).run,
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        right: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(a.rounds + 1):  # the first one pays for what is set up once
            runner.seconds.clear()
            for name, run in contenders.items():
                begun = time.process_time()
                votes = run()
                if round_:
                    seconds[name].append(time.process_time() - begun)
                    right[name].append(float((votes == labels).mean()))
                print(f"{name}: {time.process_time() - begun:.1f} s, {float((votes == labels).mean()):.1%}", flush=True)
        parts = dict(runner.seconds)
    ratios = {
        f"{name} / dpclean": spread([o / s for o, s in zip(seconds[name], seconds["dpclean"], strict=True)])
        for name in contenders
        if name != "dpclean"
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio['median']:.2f} x ({ratio['q1']:.2f} to {ratio['q3']:.2f})")
    write_results(
        "certification_run",
        {
            "images": a.images,
            "points": a.points,
            "sigma": SIGMA,
            "recipe": recipe.as_dict(),
            "cpu_seconds": {name: spread(values) for name, values in seconds.items()},
            "seconds_by_part_of_the_last_run": parts,
            "accuracy": {name: float(np.mean(values)) for name, values in right.items()},
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
