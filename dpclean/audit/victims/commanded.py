"""A victim that is any program: it learns and answers as a trainer of `certify` does, and shows nothing of itself."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.victims.victim import Check, Classes, Pixels, Seen, Victim, never
from dpclean.certify.trainer_command import CommandTrainer, RunFailed
from dpclean.data.ancestry import Ancestry
from dpclean.errors import InputError
from dpclean.jobs.command import Command
from dpclean.train.extractor import Extractor

TRAINER = "trainer"
OPTION = "--trainer"
LOOK = 8  # one image in so many is learned from, to tell how long it takes


@dataclass(frozen=True)
class Trained:
    """What it is to learn from, as it learns only to answer at once."""

    program: Program
    seen: Seen
    labels: Classes
    check: Check

    def predict(self, points: Seen) -> Classes:
        """The class of each image [P], -1 for none. Raises InputError where the program fails."""
        return self.program.answers(self.seen, self.labels, points, self.check)


class Program:
    name = TRAINER

    def __init__(self, text: str, classes: Sequence[str]) -> None:
        self.about = f"the program {text!r}, started anew for each"
        self.command = Command(text, OPTION)
        self.files = self.command.files()  # of now: what it was all along
        self._classes, self._numbers = classes, itertools.count(1)

    def fit(self, seen: Seen, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Trained:
        """A program draws what it likes: seed does not reach it."""
        return Trained(self, seen, labels, check)

    def answers(self, seen: Seen, labels: Classes, points: Seen, check: Check) -> Classes:
        with tempfile.TemporaryDirectory(prefix="dpclean-audit-") as scratch:
            trainer = CommandTrainer(self.command.text, self.files, None, self._classes, Path(scratch), "folder")
            try:
                found = trainer.run(next(self._numbers), list(seen), labels, list(points), check)
            except RunFailed as error:
                raise InputError(error.message, error.remedy) from error
        return np.asarray(found, np.int64)


class Commanded(Victim):
    is_open = False
    limit = (
        "The victim is a program. What it draws differs from its control's, what it begins with or keeps is not known,"
        " and the attacker's network is a guess: one who knows the program may do better."
    )

    def __init__(self, text: str, classes: Sequence[str]) -> None:
        self.program = Program(text, classes)
        self.about = f"what {self.program.about} victim"
        self.learners = (self.program,)
        self.ancestry = Ancestry()

    def parameters(self) -> dict[str, Any]:
        return {"trainer": self.program.command.spelled(), "trainer_files": self.program.files}

    def told(self) -> dict[str, str]:
        return {"trainer": self.program.command.text}

    def read(self, images: Pixels, check: Check = never) -> NDArray[np.object_]:
        """The images themselves, object [N]."""
        found = np.empty(len(images), object)
        for place, image in enumerate(images):
            found[place] = image
        return found

    def rows(self, seen: Seen, labels: Classes, classes: int, seed: int, check: Check) -> NDArray[np.float32]:
        raise AssertionError("a program shows no features")  # AuditOptions refuses whoever asks for them

    def network(self, images: Pixels, labels: Classes, classes: int, seed: int, check: Check) -> Extractor:
        raise AssertionError("a program shows no network")

    def sketch(self) -> Victim:
        return self

    def seconds(self, seen: Seen, labels: Classes, classes: int) -> float:
        begun = time.monotonic()
        self.program.answers(seen[::LOOK], labels[::LOOK], seen[:LOOK], never)
        return (time.monotonic() - begun) * LOOK
