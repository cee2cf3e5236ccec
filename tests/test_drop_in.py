"""OUT takes RAW's place in what people already use, unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

import dpclean
from tests.networks import make_denoiser

CLASSES = ["cat", "dog", "emu"]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "raw" / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / name / f"{i}.{'jpg' if i else 'png'}")
    dpclean.sanitize(
        tmp_path / "raw", tmp_path / "clean", sigma=0.25, denoiser=str(make_denoiser(tmp_path / "d")), reveal_key=True
    )
    return tmp_path / "clean"


def test_torchvision_image_folder(clean: Path) -> None:
    raw, sanitized = ImageFolder(str(clean.parent / "raw")), ImageFolder(str(clean))
    assert sanitized.classes == raw.classes == CLASSES
    assert sanitized.targets == raw.targets
    assert all(image.size == (32, 32) for image, _ in sanitized)


def test_hugging_face_image_folder(clean: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(clean), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == CLASSES
    assert sorted(loaded["label"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_hugging_face_image_folder_of_one_image(tmp_path: Path) -> None:
    from datasets import load_dataset

    (tmp_path / "raw" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "raw" / "cat" / "0.png")
    dpclean.sanitize(tmp_path / "raw", tmp_path / "clean", sigma=0.25, denoiser=str(make_denoiser(tmp_path / "d")))
    source = {"data_dir": str(tmp_path / "clean"), "cache_dir": str(tmp_path / "cache"), "split": "train"}
    assert [row["image"].size for row in load_dataset("imagefolder", **source)] == [(32, 32)]
