"""Images that stand out of their class along the one direction in which it varies most are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Defence, Setting

MARGIN = 1.5  # times the poisons, as in the paper


class Spectral(Defence):
    name = "spectral"
    paper = "Tran et al. 2018, 'Spectral Signatures in Backdoor Attacks'"
    about = (
        f"leaves out of each class {MARGIN:g} times as many images as are poisons, at most half of it: those that stand"
        " out most along the first singular vector of its features; so it is told how many poisons there are"
    )
    chooses = True
    looks_inside = True

    def __init__(self, poisons: int) -> None:
        self._most = math.ceil(MARGIN * poisons)

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls(setting.poisons)]

    def kept(self, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        kept = np.ones(len(rows), np.bool_)
        for label in np.unique(labels).tolist():
            places = np.flatnonzero(labels == label)
            centred = rows[places] - rows[places].mean(0, dtype=np.float64)
            _, vectors = np.linalg.eigh(centred.T @ centred)  # by rising eigenvalues
            scores = np.square(centred @ vectors[:, -1])
            worst = np.argsort(-scores, kind="stable")[: min(self._most, len(places) // 2)]
            kept[places[worst]] = False
        return kept
