"""A trainer that is any program: it gets a sanitized copy and the test points, and writes what it predicts."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dpclean.certify.runs import Ballot, ballot_of
from dpclean.data.decoding.encode import encode
from dpclean.errors import DpcleanError, InputError, printable
from dpclean.jobs.command import Command, CommandFailed
from dpclean.small_files import check_regular_file, read_small_file

PREDICTIONS, SCORES = "predictions.tsv", "scores.safetensors"
LONGEST_NAME = 255  # bytes, of a folder
_OF_THE_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
POINT = re.compile("[0-9]{1,18}")  # the name of a test point, without its ending


class RunFailed(DpcleanError):
    """A run that gave no vote."""

    code = "run-failed"
    exit = 3


class RunCutOff(RunFailed):
    """A run that was ended from outside, by its time or by a signal, or never begun: what else the machine did has a
    part in that.
    """


class CommandTrainer:
    """Runs a command once a run; {data}, {test} and {out} in it become paths. The contract: docs/training.md.

    files: of the command when the job began, compared before each run. kind: of the copy, "folder" or
    "shards". ranked: a run gives rankings, so the command must write scores.
    """

    def __init__(
        self,
        command: str,
        files: Mapping[str, str],
        timeout: float | None,
        classes: Sequence[str],
        scratch: Path,
        kind: str,
        *,
        ranked: bool = False,
    ) -> None:
        self.command = Command(command, "--trainer")
        self.files = files
        self.timeout = timeout
        self.classes = list(classes)
        self.scratch = scratch
        self.kind = kind
        self.ranked = ranked

    def run(
        self,
        number: int,
        train: Sequence[NDArray[np.uint8]],
        labels: NDArray[np.int64],
        points: Sequence[NDArray[np.uint8]],
        check: Callable[[], None] = lambda: None,
    ) -> Ballot:
        """The ballot of a run. check: is called now and then, and raises to end it. Raises RunFailed or RunCutOff; the
        copy is gone afterwards either way.

        Raises ConflictError where the program is not the one that the job was begun with.
        """
        self.command.check_files(self.files, "trainer")
        folder = self.scratch / f"{number:07d}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            places = {name: folder / name for name in ("data", "test", "out")}
            for place in places.values():
                place.mkdir(parents=True)
            self._write_data(places["data"], train, labels)
            _write_images(places["test"], points)
            self._call(number, places, check)
            return self._ballot(places["out"], len(points))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_data(self, folder: Path, images: Sequence[NDArray[np.uint8]], labels: NDArray[np.int64]) -> None:
        if fits_one_shard(self.kind, images):
            tensors: dict[str, NDArray[Any]] = {"images": np.stack(images), "labels": labels}
            save_file(tensors, folder / "data.safetensors", {"class_names": json.dumps(self.classes)})
            return
        for name in self.classes:  # one of which no image is here too: else the others would be numbered by that
            (folder / name).mkdir()
        for place, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            (folder / self.classes[label] / f"{place:06d}.png").write_bytes(encode(image, None, "png"))

    def _call(self, number: int, places: dict[str, Path], check: Callable[[], None]) -> None:
        try:
            self.command.call(places, places["out"].parent / "log", timeout=self.timeout, check=check)
        except CommandFailed as error:
            kind = RunCutOff if error.cut_off else RunFailed
            raise kind(f"run {number}: the trainer {error.what}", error.remedy) from error

    def _ballot(self, out: Path, count: int) -> Ballot:
        """What the command wrote: scores, which count where they are there, or predictions."""
        scores = out / SCORES
        if self.ranked or scores.exists():
            return ballot_of(self._scores(scores, count), ranked=self.ranked)
        return self._votes(out / PREDICTIONS, count)

    def _scores(self, path: Path, count: int) -> NDArray[np.floating[Any]]:
        """Of all points for each class of the job, float [points, classes]."""
        try:
            check_regular_file(path)
            with safe_open(path, framework="numpy") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                found = file.get_slice("scores") if "scores" in names else None
                wanted = f"float32 [{count}, {len(self.classes)}], a row a point and a column a class"
                if found is None or found.get_dtype() not in ("F16", "F32", "F64"):
                    raise RunFailed(f"{SCORES} has no tensor 'scores' of {wanted}", "mend the trainer")
                if found.get_shape() != [count, len(self.classes)]:
                    raise RunFailed(f"{SCORES} has scores of {found.get_shape()}, not {wanted}", "mend the trainer")
                scores: NDArray[np.floating[Any]] = file.get_tensor("scores")
        except OSError as error:
            raise _failed(SCORES, error) from error
        except SafetensorError as error:
            raise RunFailed(f"{SCORES} is no safetensors file: {error}", "mend the trainer") from error
        return scores[:, self._columns(metadata)]

    def _columns(self, metadata: Mapping[str, str]) -> list[int]:
        """The column of each class of the job."""
        try:
            names = json.loads(metadata.get("class_names", "null"))
        except (ValueError, RecursionError):
            names = None
        told = names if isinstance(names, list) else []
        if len(told) != len(self.classes) or any(name not in told for name in self.classes):
            raise RunFailed(
                f"{SCORES} does not name the {len(self.classes)} classes, each once, as 'class_names' in its metadata",
                "mend the trainer: a JSON list in the order of the columns",
            )
        return [told.index(name) for name in self.classes]

    def _votes(self, path: Path, count: int) -> NDArray[np.int32]:
        numbers = {name: number for number, name in enumerate(self.classes)}
        votes = np.full(count, -1, np.int32)
        try:
            lines = read_small_file(path).decode("utf-8", "surrogateescape").split("\n")
        except OSError as error:
            raise _failed(PREDICTIONS, error) from error
        for line in filter(None, (line.removesuffix("\r") for line in lines)):
            name, _, predicted = line.partition("\t")
            stem, _, ending = name.rpartition(".")
            if ending != "png" or not POINT.fullmatch(stem) or int(stem) >= count or predicted not in numbers:
                raise RunFailed(
                    f"{PREDICTIONS} has the line {line!r:.200}, which is not a point, a tab and a class",
                    "mend the trainer",
                )
            if votes[int(stem)] >= 0:
                raise RunFailed(f"{PREDICTIONS} has the point {name!r} twice", "mend the trainer")
            votes[int(stem)] = numbers[predicted]
        if (votes < 0).any():
            raise RunFailed(f"{PREDICTIONS} misses {int((votes < 0).sum())} of {count} points", "mend the trainer")
        return votes


def _failed(name: str, error: OSError) -> OSError | RunFailed:
    """What to raise where a file of the trainer's cannot be read: the machine's own errors are no vote."""
    if error.errno in _OF_THE_MACHINE:
        return error
    return RunFailed(f"the trainer wrote no {name}: {error.strerror or error}", "mend it")


def fits_one_shard(kind: str, images: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether a trainer gets images as one shard, else as a folder a class."""
    return kind == "shards" and len({image.shape for image in images}) == 1


def check_class_names(classes: Sequence[str], option: str = "--trainer", *, folders: bool) -> None:
    """Refuse classes that a command cannot be told of, or cannot tell. option: it came by. Raises InputError.

    folders: whether they become names of folders. Names of shards are whatever strangers wrote into them.
    """
    for number, name in enumerate(classes):
        if problem := _name_problem(name, folders) or ("is there twice" if name in classes[:number] else ""):
            raise InputError(
                f"the class {printable(name)[:60]!r} {problem}, so {option} cannot be used with it",
                f"give the classes other names, or leave {option} out",
            )


def _name_problem(name: str, folder: bool) -> str:
    if "\n" in name or "\r" in name:
        return "has a line break in its name"
    if not folder:
        return ""
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "has a name that no file can have"
    if not 0 < length <= LONGEST_NAME or "/" in name or "\0" in name:
        return "has a name that no folder can have"
    return "has a hidden name" if name.startswith(".") else ""


def _write_images(folder: Path, images: Sequence[NDArray[np.uint8]]) -> None:
    for place, image in enumerate(images):
        (folder / f"{place:06d}.png").write_bytes(encode(image, None, "png"))
