"""Who is attacked with what: targets, poison classes and base images, drawn from a seed or brought in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.data.dataset import Images
from dpclean.errors import InputError
from dpclean.small_files import read_small_file
from dpclean.versioned import decoded

MOST_BYTES = 64 << 20  # of a file of setups


class Setup(msgspec.Struct, frozen=True):
    """A trial by names, as files have it: the target among the test images, the bases among those of RAW."""

    target: str
    poison_class: str
    bases: list[str]


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trial by places: of the target in the test images, of the class in the classes, of the bases in RAW.

    target: None where a trigger is tried. source_class: the one whose images it is tried on, None for all others.
    """

    target: int | None
    poison_class: int
    bases: list[int]
    source_class: int | None = None


def draw_trials(
    raw: Images, test: Images, eligible: NDArray[np.bool_], *, count: int, poisons: int, seed: int
) -> list[Trial]:
    """Targets among the eligible test images, none twice; for each another class that has enough images, and bases.

    Raises InputError where there is not enough of something.
    """
    sizes = np.bincount(raw.labels, minlength=len(raw.classes))
    places = np.flatnonzero(eligible)
    enough = np.flatnonzero(sizes >= poisons)
    if len(enough) < 2:
        raise InputError(
            f"fewer than two classes have the {poisons} images that an attack changes: the largest has {sizes.max()}",
            "give fewer --poisons, or more images",
        )
    if len(places) < count:
        raise InputError(
            f"{count} targets are wanted, and {len(places)} test images have a label and are not in RAW",
            "give fewer --targets, or more test images",
        )
    random = np.random.default_rng([seed, 1])
    trials = list[Trial]()
    for target in random.choice(places, count, replace=False).tolist():
        poison_class = int(random.choice(enough[enough != test.labels[target]]))
        members = np.flatnonzero(raw.labels == poison_class)
        trials.append(Trial(target, poison_class, sorted(random.choice(members, poisons, replace=False).tolist())))
    return trials


def draw_trigger_trials(
    raw: Images,
    test: Images,
    eligible: NDArray[np.bool_],
    *,
    relabels: bool,
    one_source: bool,
    count: int,
    poisons: int,
    seed: int,
) -> list[Trial]:
    """Poison classes, bases of them (where an attack relabels, of the others) and classes to try the trigger on.

    Raises InputError where there is not enough of something.
    """
    sizes = np.bincount(raw.labels, minlength=len(raw.classes))
    room = len(raw) - sizes if relabels else sizes
    if (room < poisons).all():
        raise InputError(
            f"no class has the {poisons} images that an attack changes: there are at most {room.max()}",
            "give fewer --poisons, or more images",
        )
    askable = np.unique(test.labels[eligible])
    if len(askable) < 2:
        raise InputError(
            "a trigger is tried on test images of other classes, and those that are not in RAW are of fewer than two",
            "give more test images",
        )
    random = np.random.default_rng([seed, 2])
    trials = []
    for _ in range(count):
        poison_class = int(random.choice(np.flatnonzero(room >= poisons)))
        members = np.flatnonzero((raw.labels == poison_class) != relabels)
        bases = sorted(random.choice(members, poisons, replace=False).tolist())
        source = int(random.choice(askable[askable != poison_class])) if one_source else None
        trials.append(Trial(None, poison_class, bases, source))
    return trials


def asked(trial: Trial, test: Images, eligible: NDArray[np.bool_]) -> list[int]:
    """The places of the test images that victims of a trial are asked about."""
    if trial.target is not None:
        return [trial.target]
    others = test.labels != trial.poison_class if trial.source_class is None else test.labels == trial.source_class
    return np.flatnonzero(eligible & others).tolist()


def read_setups(path: Path) -> list[Setup]:
    """A JSON list of setups. Raises InputError."""
    try:
        return msgspec.convert(decoded(read_small_file(path, MOST_BYTES)), list[Setup])
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the setups {str(path)!r} cannot be read: {error}",
            'give a JSON list of {"target": NAME, "poison_class": CLASS, "bases": [NAME, ...]}',
        ) from error


def find_trials(
    setups: Mapping[str, Setup], raw: Images, test: Images, eligible: NDArray[np.bool_], remedy: str
) -> list[Trial]:
    """Setups by places. setups: by what users know them by. Raises InputError, with this remedy, where a name is not
    there or a setup makes no sense.
    """
    in_raw = {name: place for place, name in enumerate(raw.names)}
    in_test = {name: place for place, name in enumerate(test.names)}
    classes = {name: place for place, name in enumerate(raw.classes)}
    trials = []
    for called, setup in setups.items():
        for kind, names, known in (
            ("a test image", [setup.target], in_test),
            ("a class", [setup.poison_class], classes),
            ("an image of RAW", setup.bases, in_raw),
        ):
            missing = [name for name in names if name not in known]
            if missing:
                raise InputError(f"{called} names {missing[0]!r}, which is not {kind}", remedy)
        target = in_test[setup.target]
        trial = Trial(target, classes[setup.poison_class], [in_raw[name] for name in setup.bases])
        if problem := _problem(trial, target, raw, test, eligible):
            raise InputError(f"{called} has {problem}", remedy)
        trials.append(trial)
    return trials


def _problem(trial: Trial, target: int, raw: Images, test: Images, eligible: NDArray[np.bool_]) -> str:
    if not eligible[target]:
        return "a target that is in RAW or has no label"
    if test.labels[target] == trial.poison_class:
        return "a target that is of the poison class already"
    if not trial.bases or len(set(trial.bases)) < len(trial.bases):
        return "no bases, or one of them twice"
    if any(raw.labels[base] != trial.poison_class for base in trial.bases):
        return "a base that is not of the poison class"
    return ""
