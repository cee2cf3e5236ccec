"""A filter of the user's own: any program that is given the images and leaves those that it trusts."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Check, Defence, Filtered, Pixels, Setting
from dpclean.audit.victims.victim import Seen
from dpclean.certify.trainer_command import check_class_names
from dpclean.data.dataset import Images, read_images
from dpclean.data.decoding.encode import encode
from dpclean.errors import InputError, printable
from dpclean.jobs.command import Command, CommandFailed

OPTION = "--defence"
DATA, OUT = "data", "out"
LOOK = 64  # images, about, to tell from how long it takes


class Filter(Defence):
    """{data} becomes a folder with a folder a class and PNG files in it; {out} an empty one, for files of the same
    names. Nothing else of RAW or of the attack is told to the program.
    """

    name = "CMD {data} {out}"
    paper = ""
    about = "a program of yours: it gets the folder {data}, and the victim gets the files that it leaves in {out}"
    together = True

    def __init__(self, text: str) -> None:
        self.command = Command(text, OPTION)
        self._files = self.command.files()  # of now: what it was all along

    @property
    def label(self) -> str:
        return self.command.text

    @classmethod
    def check(cls, argument: str) -> None:
        Command(argument, OPTION).check(DATA, OUT)

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(argument)]

    def parameters(self) -> dict[str, str]:
        return self._files

    def filtered(
        self, images: Pixels, labels: NDArray[np.int64], classes: Sequence[str], check: Check = lambda: None
    ) -> Filtered:
        check_class_names(classes, OPTION, folders=True)
        self.command.check_files(self._files, "defence")
        with tempfile.TemporaryDirectory(prefix="dpclean-audit-") as scratch:
            places = {name: Path(scratch) / name for name in (DATA, OUT)}
            names = [f"{classes[label]}/{place:06d}.png" for place, label in enumerate(labels.tolist())]
            for root in places.values():
                root.mkdir()
            for name in classes:
                (places[DATA] / name).mkdir()
            for name, image in zip(names, images, strict=True):
                check()
                (places[DATA] / name).write_bytes(encode(image, None, "png"))
            try:
                self.command.call(places, Path(scratch) / "log", check=check)
            except CommandFailed as error:
                raise InputError(f"the defence {self.label!r} {error.what}", error.remedy) from error
            return self._read(places[OUT], names, images)

    def seconds(self, images: Images, seen: Seen) -> float:
        some = images.take(np.arange(len(images)) % max(1, len(images) // LOOK) == 0)
        begun = time.monotonic()
        self.filtered(some.pixels, some.labels, some.classes)
        return (time.monotonic() - begun) / len(some) * len(images)

    def _read(self, out: Path, names: Sequence[str], images: Pixels) -> Filtered:
        """What the program left, in the place of the images. Raises InputError."""
        if out.is_symlink() or not out.is_dir():
            raise InputError(
                f"the defence {self.label!r} has taken the folder {{out}} away", "let it write into {out} alone"
            )
        there = [name for name in names if os.path.lexists(out / name)]
        by_name = _images_in(out)
        if strange := sorted(by_name.keys() - set(names)):
            raise InputError(
                f"the defence {self.label!r} wrote {printable(strange[0])!r}, which is none of the images it was given",
                "keep the names, below {out}",
            )
        if broken := [name for name in there if name not in by_name]:
            raise InputError(
                f"what the defence {self.label!r} wrote as {broken[0]!r} is no image that can be read", "mend it"
            )
        if not by_name:
            raise InputError(
                f"the defence {self.label!r} left none of the {len(names)} images",
                "let it write those that it trusts into {out}, under the names that they have in {data}",
            )
        kept = np.array([name in by_name for name in names])
        return Filtered([by_name.get(name, image) for name, image in zip(names, images, strict=True)], kept)


def _images_in(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Those that can be read, [H,W,C] by name."""
    if not any(folder.iterdir()):
        return {}
    try:
        found = read_images(folder, workers=1)
    except InputError:  # none can
        return {}
    return dict(zip(found.names, found.pixels, strict=True))
