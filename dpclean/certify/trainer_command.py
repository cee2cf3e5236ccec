"""A trainer that is any program: it gets a sanitized copy and the test points, and writes what it predicts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from dpclean.data.encode import encode
from dpclean.errors import DpcleanError
from dpclean.small_files import read_small_file

PREDICTIONS = "predictions.tsv"


class RunFailed(DpcleanError):
    """A run that gave no vote."""

    code = "run-failed"
    exit = 3


class CommandTrainer:
    """Runs a command once a run; {data}, {test} and {out} in it become paths.

    {data} is a folder with a folder a class, or with one shard, and nothing else in it; {test} has the points without
    labels as NNNNNN.png; {out}/predictions.tsv must have a line for each point: its file's name, a tab, a class name.
    """

    def __init__(self, command: str, timeout: float, classes: Sequence[str], scratch: Path, kind: str) -> None:
        self.arguments = shlex.split(command)
        self.timeout = timeout
        self.classes = list(classes)
        self.scratch = scratch
        self.kind = kind

    def run(
        self,
        number: int,
        train: Sequence[NDArray[np.uint8]],
        labels: NDArray[np.int64],
        points: Sequence[NDArray[np.uint8]],
    ) -> NDArray[np.int32]:
        """The votes, int32 [points]. Raises RunFailed; the copy is gone afterwards either way."""
        folder = self.scratch / f"{number:07d}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            places = {name: folder / name for name in ("data", "test", "out")}
            for place in places.values():
                place.mkdir(parents=True)
            self._write_data(places["data"], train, labels)
            _write_images(places["test"], points)
            self._call(number, places)
            return self._votes(places["out"] / PREDICTIONS, len(points))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_data(self, folder: Path, images: Sequence[NDArray[np.uint8]], labels: NDArray[np.int64]) -> None:
        if self.kind == "shards" and len({image.shape for image in images}) == 1:
            tensors: dict[str, NDArray[Any]] = {"images": np.stack(images), "labels": labels}
            save_file(tensors, folder / "data.safetensors", {"class_names": json.dumps(self.classes)})
            return
        for place, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = folder / self.classes[label] / f"{place:06d}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(image, None, "png"))

    def _call(self, number: int, places: dict[str, Path]) -> None:
        arguments = [_filled(argument, places) for argument in self.arguments]
        log = places["out"].parent / "log"
        with log.open("wb") as said:
            try:
                process = subprocess.Popen(
                    arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                )
            except OSError as error:
                raise RunFailed(
                    f"run {number}: the trainer {arguments[0]!r} does not start: {error.strerror}", "check --trainer"
                ) from error
            code = _wait(process, self.timeout)
        if code is None:
            raise RunFailed(
                f"run {number}: the trainer took more than {self.timeout:g} s", "raise --run-timeout, or mend it"
            )
        if code != 0:
            last = log.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise RunFailed(f"run {number}: the trainer left with exit code {code}: {last[0]}", "mend it")

    def _votes(self, path: Path, count: int) -> NDArray[np.int32]:
        numbers = {name: number for number, name in enumerate(self.classes)}
        votes = np.full(count, -1, np.int32)
        try:
            lines = read_small_file(path).decode("utf-8", "surrogateescape").splitlines()
        except OSError as error:
            raise RunFailed(f"the trainer wrote no {PREDICTIONS}: {error.strerror}", "mend it") from error
        for line in lines:
            name, _, predicted = line.partition("\t")
            stem, _, ending = name.rpartition(".")
            if ending != "png" or not stem.isdecimal() or int(stem) >= count or predicted not in numbers:
                raise RunFailed(
                    f"{PREDICTIONS} has the line {line!r}, which is not a point, a tab and a class", "mend the trainer"
                )
            votes[int(stem)] = numbers[predicted]
        if (votes < 0).any():
            raise RunFailed(f"{PREDICTIONS} misses {int((votes < 0).sum())} of {count} points", "mend the trainer")
        return votes


def _filled(argument: str, places: dict[str, Path]) -> str:
    for name, place in places.items():
        argument = argument.replace(f"{{{name}}}", str(place))
    return argument


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit code; None when the time was up and the whole group was ended."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _write_images(folder: Path, images: Sequence[NDArray[np.uint8]]) -> None:
    for place, image in enumerate(images):
        (folder / f"{place:06d}.png").write_bytes(encode(image, None, "png"))
