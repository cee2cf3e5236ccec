"""A victim that learns a linear head on the features of a frozen network, in two ways."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.victims.heads import HEADS
from dpclean.audit.victims.victim import Check, Classes, Pixels, Seen, Victim, never
from dpclean.train.extractor import Extractor

FROZEN = "frozen"
BLOCK = 512  # images whose rows are made between two looks for a signal


class Frozen(Victim):
    limit = (
        "The victim is a linear head on the features of a frozen network. A victim that learns all its weights, or"
        " another network, is another matter."
    )

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.about = f"a linear head on the frozen features of {extractor.id}"
        self.learners = tuple(HEADS.values())
        self.ancestry = extractor.ancestry

    def parameters(self) -> dict[str, Any]:
        return {"extractor": self.extractor.digest, "extractor_size": self.extractor.size}

    def told(self) -> dict[str, str]:
        return {"extractor": self.extractor.id, "extractor_digest": self.extractor.digest}

    def read(self, images: Pixels, check: Check = never) -> NDArray[np.float32]:
        """float32 [N,D]."""
        blocks = []
        for start in range(0, len(images), BLOCK):
            check()
            blocks.append(self.extractor.features(list(images[start : start + BLOCK])))
        return np.concatenate(blocks)

    def rows(self, seen: Seen, labels: Classes, classes: int, seed: int, check: Check) -> NDArray[np.float32]:
        return seen

    def network(self, images: Pixels, labels: Classes, classes: int, seed: int, check: Check) -> Extractor:
        return self.extractor

    def sketch(self) -> Victim:
        return self

    def seconds(self, seen: Seen, labels: Classes, classes: int) -> float:
        begun = time.monotonic()
        for learner in self.learners:
            learner.fit(seen, labels, classes)
        return time.monotonic() - begun
