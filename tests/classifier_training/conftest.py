"""One sanitized folder and one model trained on it, for the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

import dpclean
from tests.classifier_training.commands import train
from tests.networks import make_transparent
from tests.train.pictures import make_folder


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw/, test/ and clean/: three classes of fifteen images, sanitized at 0.1."""
    root = tmp_path_factory.mktemp("material")
    raw = make_folder(root / "raw")
    make_folder(root / "test", 30, seed=9)
    denoiser = make_transparent(root / "denoiser")
    dpclean.sanitize(raw, root / "clean", sigma=0.1, denoiser=str(denoiser), dtype="fp32", seed=1, workers=1)
    return root


@pytest.fixture(scope="session")
def model(material: Path) -> Path:
    train(material / "clean", material / "model", test=material / "test")
    return material / "model"
