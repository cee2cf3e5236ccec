"""Images of faint tints, an extractor that has seen others like them, and a denoiser: all small, all real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpclean.audit import inputs
from dpclean.certify import test_time_inputs
from dpclean.classifier_training.job import train
from dpclean.data import dataset
from dpclean.data.dataset import Images
from dpclean.data.records import DataOptions
from tests.networks import make_transparent

CLASSES = ("blue", "green", "red")
TINT = 24  # grey levels: little enough for an attack to undo


def save(root: Path, count: int, seed: int) -> Path:
    """Images of 16 px in three classes."""
    random = np.random.default_rng(seed)
    for number in range(count):
        label = number % 3
        image = random.integers(60, 160, (16, 16, 3))
        image[:, :, label] += TINT
        path = root / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("audit") / "raw", 45, 1)


@pytest.fixture(scope="session")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("audit") / "test", 15, 2)


@pytest.fixture(scope="session", autouse=True)
def read_once(raw: Path, test_images: Path) -> Iterator[None]:
    """Images that no test changes are read once: each reading starts a process."""
    real, known = dataset.read_images, dict[Path, Images]()

    def read(path: Path, options: DataOptions | None = None, **more: Any) -> Images:
        if path not in (raw, test_images) or options not in (None, DataOptions()) or more.keys() != {"workers"}:
            return real(path, options, **more)
        if path not in known:
            known[path] = real(path, options, **more)
        return replace(known[path])

    with pytest.MonkeyPatch.context() as patch:
        for module in (dataset, inputs, test_time_inputs):
            patch.setattr(module, "read_images", read)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on other images."""
    folder = tmp_path_factory.mktemp("audit")
    train(save(folder / "data", 60, 3), folder / "model", recipe="tiny", device="cpu", seed=1, threads=1, workers=1)
    return folder / "model"


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It takes no noise away, so that a large sigma drowns whatever an attack has done."""
    return make_transparent(tmp_path_factory.mktemp("audit") / "denoiser")
