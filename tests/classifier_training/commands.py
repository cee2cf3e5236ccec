"""`train` as the tests call it, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dpclean.classifier_training import job
from dpclean.classifier_training.results import TrainResult
from dpclean.train.model import Description, read_description

SHORT = "tiny@24"  # 60 steps on the images of the tests


def train(clean: Path, out: Path, **options: Any) -> TrainResult:
    """With one thread, as weights depend on the number, and by default that is how many cores are idle."""
    return job.train(clean, out, **{"recipe": SHORT, "workers": 1, "threads": 1, "device": "cpu", **options})


def told(folder: Path) -> Description:
    description = read_description(folder)
    assert description is not None
    return description


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
