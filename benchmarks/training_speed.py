"""How long until a recipe reaches 90 % of ResNet-18's final accuracy on the first 10,000 CIFAR-10 images.

    python benchmarks/training_speed.py TRAIN TEST [--images 10000] [--work DIR]

TRAIN and TEST: what make_inputs.py makes of CIFAR-10 (shards, or a folder by classes). The peer is the recipe
`resnet18`: CIFAR stem, SGD with momentum 0.9, batch 128, learning rate 0.1 falling to 0 by a cosine, weight decay 5e-4,
flips and crops; in its fastest form here: half precision, channels-last. Seconds are those of training alone: epochs
times the fastest epoch. The curve is that of 2,000 test images, which chose nothing; the last accuracy is that of all.
The recipe runs before and after the peer. A killed run goes on from its last epoch in DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine_facts import write_results
from torch import Tensor

from dpclean.data.dataset import match_labels, read_images
from dpclean.train.images import prepare
from dpclean.train.recipes import find_recipe
from dpclean.train.trainer import Epoch, Trainer

PEER, SHARE, CURVE_IMAGES = "resnet18", 0.9, 2000


@dataclass
class Data:
    """CIFAR-10 as tensors: uint8 [N,S,S,3] and int64 [N]."""

    images: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass
class Run:
    """One training: its curve so far, kept in a file with the checkpoint it goes on from."""

    path: Path
    curve: list[dict[str, float]] = field(default_factory=list)
    checkpoint: dict[str, Any] | None = None

    def load(self) -> Run:
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            self.curve, self.checkpoint = saved["curve"], saved["checkpoint"]
        return self

    def save(self, checkpoint: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".new")
        torch.save({"curve": self.curve, "checkpoint": checkpoint}, temporary)
        temporary.rename(self.path)


def accuracy(trainer: Trainer, images: Tensor, labels: Tensor) -> float:
    return float((trainer.predict(images) == labels).float().mean())


def train(name: str, seed: int, data: Data, work: Path) -> dict[str, Any]:
    """The curve of one training and its accuracy on all test images; kept when it is done."""
    result = work / f"{name}-{seed}.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    run = Run(work / f"{name}-{seed}.pt").load()
    trainer = Trainer(find_recipe(name), 10, size=data.images.shape[1], device=torch.device("cpu"))

    def on_epoch(epoch: Epoch) -> None:
        seconds = epoch.seconds + (run.curve[-1]["seconds"] if run.curve else 0)
        found = accuracy(trainer, data.test[:CURVE_IMAGES], data.test_labels[:CURVE_IMAGES])
        run.curve.append({"epoch": epoch.number, "seconds": seconds, "loss": epoch.loss, "accuracy": found})
        print(f"{name} {seed}: epoch {epoch.number}/{epoch.epochs} {seconds:8.1f} s {100 * found:6.2f} %", flush=True)
        run.save(trainer.checkpoint())

    trainer.fit(data.images, data.labels, seed=seed, on_epoch=on_epoch, resume=run.checkpoint)
    final = accuracy(trainer, data.test, data.test_labels)
    done = {"recipe": find_recipe(name).as_dict(), "seed": seed, "curve": run.curve, "accuracy": final}
    result.write_text(json.dumps(done))
    return done


def seconds_to(run: dict[str, Any], level: float) -> float | None:
    """Epochs until the curve first reaches a level, times the fastest of the run's epochs.

    Every epoch is the same work; what some take longer is what else the machine did.
    """
    ends = [0.0, *(point["seconds"] for point in run["curve"])]
    fastest = min(end - begin for begin, end in itertools.pairwise(ends))
    return next((point["epoch"] * fastest for point in run["curve"] if point["accuracy"] >= level), None)


def load(train: Path, test: Path, images: int) -> Data:
    known, held = read_images(train, limit=images), read_images(test)
    labels = torch.from_numpy(match_labels(held, known.classes))
    return Data(prepare(known.pixels, None), torch.from_numpy(known.labels), prepare(held.pixels, None), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, metavar="TRAIN")
    parser.add_argument("test", type=Path, metavar="TEST")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/inputs/training_speed"))
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    data = load(a.train, a.test, a.images)
    shuffled = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    data.test, data.test_labels = data.test[shuffled], data.test_labels[shuffled]

    first = train(a.recipe, 1, data, a.work)
    peer = train(PEER, 1, data, a.work)
    runs = [first, train(a.recipe, 2, data, a.work), train(a.recipe, 3, data, a.work)]
    level = SHARE * peer["curve"][-1]["accuracy"]
    times = [seconds_to(run, level) for run in runs]
    peer_seconds = seconds_to(peer, level)
    assert peer_seconds is not None
    reached = sorted(seconds for seconds in times if seconds is not None)
    ratio = peer_seconds / reached[len(reached) // 2] if len(reached) == len(runs) else None
    print(f"level {100 * level:.2f} %: {PEER} {peer_seconds:.0f} s, {a.recipe} {times} s, ratio of medians {ratio}")
    results = {
        "images": len(data.images),
        "threads": torch.get_num_threads(),
        "level": level,
        "accuracy": {PEER: [peer["accuracy"]], a.recipe: [run["accuracy"] for run in runs]},
        "seconds": {PEER: [peer_seconds], a.recipe: times},
        "ratio": ratio,
        "runs": [peer, *runs],
    }
    print(write_results("training_speed", results))


if __name__ == "__main__":
    main()
