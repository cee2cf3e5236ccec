"""Images whose neighbours among the features mostly have another label are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Defence, Setting

BLOCK = 1024  # rows that are compared with all others together


class DeepKnn(Defence):
    name = "deep-knn"
    paper = "Peri et al. 2020, 'Deep k-NN Defense against Clean-label Data Poisoning Attacks'"
    about = "leaves out images whose nearest neighbours, as many as a class has images on average, are mostly of others"
    chooses = True
    looks_inside = True

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls()]

    def kept(self, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        classes = int(labels.max()) + 1
        neighbours = max(1, min(len(rows) // classes, len(rows) - 1))
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        kept = np.ones(len(rows), np.bool_)
        for start in range(0, len(rows), BLOCK):
            near = unit[start : start + BLOCK] @ unit.T
            near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf  # not itself
            found = labels[np.argpartition(-near, neighbours - 1, axis=1)[:, :neighbours]]
            counts = (found[:, :, None] == np.arange(classes)).sum(1)
            own = counts[np.arange(len(near)), labels[start : start + BLOCK]]
            kept[start : start + BLOCK] = own == counts.max(1)
        return kept
