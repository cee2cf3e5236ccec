"""Labelled images that a small network can tell apart: noise whose tint is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CLASSES = ("blue", "green", "red")


def tinted(count: int, classes: int, size: int = 24, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 [N,S,S,3], int64 [N]."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = random.integers(0, 160, (count, size, size, 3))
    images[np.arange(count), :, :, labels] += 80
    return images.astype(np.uint8), labels


def tensors(count: int = 40, classes: int = 2, size: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    images, labels = tinted(count, classes, size, seed)
    return torch.from_numpy(images), torch.from_numpy(labels)


def make_folder(root: Path, count: int = 45, classes: int = 3, size: int = 24, seed: int = 0) -> Path:
    images, labels = tinted(count, classes, size, seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root
