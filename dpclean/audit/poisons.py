"""Poisons as a folder that others can load: PNG files, and a JSON file that says what they are."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpclean.jobs.durable import write_durably
from dpclean.versioned import decoded, encoded

NAME, TARGET_NAME = "poisons.json", "target.png"
TRIGGER_NAME, EXAMPLE_NAME = "trigger.npy", "example.png"
FORMAT: Final = 1
LONGEST = 100  # letters of what an attacker knows, in the name of a folder


class Poison(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of them. name, index: of the image of RAW in whose place it was put. base: the file of what it was made of,
    where that is another image.
    """

    file: str
    name: str
    index: int
    base: str | None = None


class Poisons(msgspec.Struct, frozen=True, kw_only=True):
    """What poisons.json says. target, target_class: None where there is a trigger in place of a target. poison_class:
    the label that all poisons have. trigger: how what is in its file is put on an image. settings: of the attack.
    """

    format: Literal[1] = FORMAT
    target: str | None
    target_class: str | None
    poison_class: str
    poisons: list[Poison]
    settings: dict[str, str | int | float | None]
    trigger: dict[str, Any] | None = None


def folder_name(number: int, knows: str | None) -> str:
    """Of the poisons of a trial, below `poisons/`: "0001", and "0001-adaptive-0.1" of who knows "sanitized at 0.1"."""
    if knows is None:
        return f"{number:04d}"
    plain = knows.removeprefix("sanitized").replace(" at ", ":")
    words = re.sub("[^A-Za-z0-9.]+", "-", plain).strip("-")[-LONGEST:]
    if len(plain) > LONGEST or not re.fullmatch("(:[A-Za-z0-9.]+)+", plain):  # two names must not become one
        words += f"-{hashlib.sha256(os.fsencode(knows)).hexdigest()[:8]}"
    return f"{number:04d}-adaptive-{words}"


def write_poisons(
    folder: Path,
    told: Poisons,
    images: Sequence[NDArray[np.uint8]],
    asked: NDArray[np.uint8],
    trigger: NDArray[Any] | None = None,
    bases: Sequence[NDArray[np.uint8]] | None = None,
) -> None:
    """asked: the target, or an example of an image with the trigger on it. bases: where these are not images of RAW.
    Raises SetupError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for poison, pixels in zip(told.poisons, images, strict=True):
        write_durably(folder / poison.file, png(pixels))
    for poison, pixels in zip(told.poisons, bases or (), strict=bases is not None):
        assert poison.base is not None
        write_durably(folder / poison.base, png(pixels))
    write_durably(folder / (TARGET_NAME if trigger is None else EXAMPLE_NAME), png(asked))
    if trigger is not None:
        file = io.BytesIO()
        np.save(file, trigger)
        write_durably(folder / TRIGGER_NAME, file.getvalue())
    write_durably(folder / NAME, encoded(told))


def read_pixels(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    """The images of the first so many poisons, as they were written, [H,W,C]."""
    return [read_png(folder / poison.file) for poison in _told(folder).poisons[:count]]


def read_bases(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    """What these were made of, [H,W,C], where it is not images of RAW; else none."""
    return [read_png(folder / poison.base) for poison in _told(folder).poisons[:count] if poison.base is not None]


def read_asked(folder: Path) -> NDArray[np.uint8]:
    """The target [H,W,C], or the example of an image with the trigger on it."""
    example = folder / EXAMPLE_NAME
    return read_png(example if example.exists() else folder / TARGET_NAME)


def _told(folder: Path) -> Poisons:
    return msgspec.convert(decoded((folder / NAME).read_bytes()), Poisons)


def read_png(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()
