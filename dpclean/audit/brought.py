"""Poisons that were made elsewhere, as an attack: folders that `audit` wrote, or of the poisoning benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.audit import benchmark_pickles
from dpclean.audit.attacks.attack import Attack, Case, Crafted
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.poisons import FORMAT, NAME, TARGET_NAME, Poisons
from dpclean.audit.trials import Setup, Trial, find_trials
from dpclean.data.dataset import Images, read_images
from dpclean.data.digest import pixel_sha256
from dpclean.errors import InputError
from dpclean.versioned import read_versioned

FARTHEST = 64  # grey levels, of a poison from the image that it was made of, where that is to be found by its pixels
BLOCK = 1024  # images that are compared together
NOTHING = "no defence"

Pixels = NDArray[np.uint8]


class BroughtPoisons(Attack):
    """It has its poisons already, of each trial in its order."""

    name = "brought"
    paper = "made elsewhere"
    about = "poisons of --poisons-from"
    has_gradients = False

    def __init__(self, poisons: Sequence[list[Pixels]]) -> None:
        self._poisons = poisons

    def craft(self, case: Case, surrogate: Surrogate, *, most_steps: int, on_step: Callable[[], None]) -> Crafted:
        assert case.target is not None
        found = self._poisons[case.number - 1]
        if not surrogate.is_open:
            return Crafted(found)
        wanted = surrogate.row_of(case.target).cpu().numpy()

        def distance(images: Sequence[Pixels]) -> float:
            rows = surrogate.extractor.features(list(images))
            return float(np.linalg.norm(rows.mean(0) - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)

        return Crafted(found, distance_before=distance(case.bases), distance_after=distance(found))


@dataclass(frozen=True)
class Brought:
    """What a folder holds. eps: the largest change of a pixel value. known: the defences that attackers knew, each
    once, as far as that is told.
    """

    attack: BroughtPoisons
    trials: list[Trial]
    eps: int
    digest: str
    known: list[str]


@dataclass(frozen=True)
class _Case:
    """By names in RAW and among the test images. known: the defence that the attacker knew."""

    folder: Path
    setup: Setup
    poisons: list[Pixels]
    known: str


def read_brought(
    folder: Path, raw: Images, test: Images, eligible: NDArray[np.bool_], *, most: int, workers: int | None
) -> Brought:
    """The first so many trials of a folder, or of what lies in it. Raises InputError."""
    cases = [_read(each, raw, test, workers) for _, each in zip(range(most), _folders(folder), strict=False)]
    if not cases:
        raise InputError(
            f"there are no poisons in {str(folder)!r}",
            f"give a folder with {NAME}, or with {benchmark_pickles.POISONS_NAME}, or one of such folders",
        )
    setups = {repr(str(case.folder)): case.setup for case in cases}
    trials = find_trials(setups, raw, test, eligible, "give the RAW and the test images that the poisons were made for")
    eps, whole = 0, hashlib.sha256()
    for case, trial in zip(cases, trials, strict=True):
        bases = [raw.pixels[place] for place in trial.bases]
        for number, (base, poison) in enumerate(zip(bases, case.poisons, strict=True)):
            if base.shape != poison.shape:
                raise InputError(
                    f"poison {number} in {str(case.folder)!r} has the shape {poison.shape}, and the image of RAW in"
                    f" whose place it belongs {base.shape}",
                    "give the RAW that the poisons were made for",
                )
            eps = max(eps, _apart(base, poison))
            whole.update(pixel_sha256(poison))
    known = list(dict.fromkeys(case.known for case in cases))
    return Brought(BroughtPoisons([case.poisons for case in cases]), trials, eps, whole.hexdigest(), known)


def _folders(folder: Path) -> Iterator[Path]:
    """Those with poisons in them: this one, or those below it, or in its `poisons` as `audit` has them."""
    if (folder / NAME).is_file() or benchmark_pickles.is_there(folder):
        yield folder
        return
    inner = folder / "poisons" if (folder / "poisons").is_dir() else folder
    for each in sorted(inner.iterdir()) if inner.is_dir() else ():
        if (each / NAME).is_file() or benchmark_pickles.is_there(each):
            yield each


def _read(folder: Path, raw: Images, test: Images, workers: int | None) -> _Case:
    if (folder / NAME).is_file():
        return _own(folder, workers)
    return _of_benchmark(folder, raw, test)


def _own(folder: Path, workers: int | None) -> _Case:
    path = folder / NAME
    remedy = "restore it, or make the poisons again"
    told = read_versioned(path, FORMAT, lambda fields: msgspec.convert(fields, Poisons), "tells of no poisons", remedy)
    assert told is not None  # it is there
    if told.target is None or told.trigger is not None:
        raise InputError(f"{str(path)!r} has a trigger, and poisons for a single target are taken", "give others")
    images = read_images(folder, workers=workers)
    by_name = dict(zip(images.names, images.pixels, strict=True))
    if missing := [poison.file for poison in told.poisons if poison.file not in by_name or poison.file == TARGET_NAME]:
        raise InputError(f"{str(path)!r} names {missing[0]!r}, which is no image beside it", "restore it")
    setup = Setup(told.target, told.poison_class, [poison.name for poison in told.poisons])
    known = str(told.settings.get("crafted_for") or NOTHING)
    return _Case(folder, setup, [by_name[poison.file] for poison in told.poisons], known)


def _of_benchmark(folder: Path, raw: Images, test: Images) -> _Case:
    """Which images of RAW poisons were made of, and which test image is the target, is found by their pixels."""
    poisons, target = benchmark_pickles.read_benchmark(folder)
    named = zip(test.names, test.pixels, strict=True)
    found = next((name for name, pixels in named if np.array_equal(pixels, target)), None)
    if found is None:
        raise InputError(
            f"the target in {str(folder)!r} is not among the test images", "give test images that it is one of"
        )
    places = [_nearest(folder, number, poison, raw) for number, poison in enumerate(poisons)]
    classes = {raw.classes[raw.labels[place]] for place in places}
    if len(classes) > 1:
        raise InputError(
            f"the poisons in {str(folder)!r} were made of images of {len(classes)} classes of RAW, and clean labels of"
            " one class are taken",
            "give others",
        )
    return _Case(folder, Setup(found, classes.pop(), [raw.names[place] for place in places]), poisons, NOTHING)


def _nearest(folder: Path, number: int, poison: Pixels, raw: Images) -> int:
    """The place in RAW of the image that a poison is least changed from. Raises InputError where it is far from all."""
    alike = [place for place, image in enumerate(raw.pixels) if image.shape == poison.shape]
    best, place = FARTHEST + 1, -1
    for start in range(0, len(alike), BLOCK):
        some = alike[start : start + BLOCK]
        images = np.stack([raw.pixels[each] for each in some]).astype(np.int16)
        apart = np.abs(images - poison).reshape(len(some), -1).max(1)
        least = int(apart.argmin())
        if apart[least] < best:
            best, place = int(apart[least]), some[least]
    if place < 0:
        raise InputError(
            f"poison {number} in {str(folder)!r} is within {FARTHEST} grey levels of no image of RAW",
            "give the RAW that the poisons were made for",
        )
    return place


def _apart(base: Pixels, poison: Pixels) -> int:
    return int(np.abs(base.astype(np.int16) - poison).max())
