"""What a victim learns on the rows of a frozen extractor: linear heads, trained in two ways.

How a head is trained moves the success of an attack as much as a defence does, so both are always shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.victims.victim import Check, Classes, Learner, never
from dpclean.errors import Diverged

Rows = NDArray[np.float32]

STEPS, GRADIENT = 1000, 1e-3  # of `logistic`: the most, and the largest slope a row at which it has converged
EPOCHS, BATCH, RATE, MOMENTUM = 40, 128, 0.05, 0.9  # of `sgd`
LENGTH = 8.0  # that rows have on average for `sgd`, whatever the extractor: its rate fits this


@dataclass(frozen=True)
class Linear:
    """A head that has learned: ((row - centre) / scale, 1) times weights float64 [D+1,classes] are its scores."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]

    def predict(self, points: Rows) -> Classes:
        """The class int64 [P] of each point [P,D]."""
        found: Classes = (_with_one((points - self.centre) / self.scale) @ self.weights).argmax(1)
        return found


class Logistic:
    name = "logistic"
    about = "logistic regression on standardised features, L2 penalty with C = 1, until it has converged"

    def fit(self, seen: Rows, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Linear:
        from scipy.optimize import minimize

        centre, scale = seen.mean(0, dtype=np.float64), seen.std(0, dtype=np.float64)
        scale[scale == 0] = 1.0
        x, wanted = _with_one((seen - centre) / scale), np.eye(classes)[labels]

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            check()
            weights = flat.reshape(-1, classes)
            logs = _log_softmax(x @ weights)
            penalised = weights.copy()
            penalised[-1] = 0  # the bias is free
            slope = x.T @ (np.exp(logs) - wanted) + penalised
            return -(logs * wanted).sum() + np.square(penalised).sum() / 2, slope.ravel()

        found = minimize(loss, np.zeros(x.shape[1] * classes), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        slope = np.abs(found.jac).max() / len(seen)
        if not np.isfinite(found.fun) or slope > GRADIENT:
            raise _diverged(self.name, f"its slope is {slope:.2g} after {found.nit} steps")
        return Linear(centre, scale, found.x.reshape(-1, classes))


class Sgd:
    name = "sgd"
    about = f"the features as they are, all divided by one number, and {EPOCHS} epochs of stochastic gradient descent"

    def fit(self, seen: Rows, labels: Classes, classes: int, seed: int = 0, check: Check = never) -> Linear:
        """Its order of the images is always the same, so that victims differ by what they learn from alone."""
        length = np.sqrt(np.square(seen, dtype=np.float64).sum(1).mean())
        centre, scale = np.zeros(seen.shape[1]), np.full(seen.shape[1], length / LENGTH or 1.0)
        x, wanted = _with_one(seen / scale), np.eye(classes)[labels]
        weights = np.zeros((x.shape[1], classes))
        speed, random = np.zeros_like(weights), np.random.default_rng(0)
        for epoch in range(EPOCHS):
            check()
            order = random.permutation(len(x))
            for start in range(0, len(x), BATCH):
                batch = order[start : start + BATCH]
                slope = x[batch].T @ (np.exp(_log_softmax(x[batch] @ weights)) - wanted[batch]) / len(batch)
                speed = MOMENTUM * speed - RATE * (1 - epoch / EPOCHS) * slope
                weights += speed
        if not np.isfinite(weights).all():
            raise _diverged(self.name, "its weights are not finite")
        return Linear(centre, scale, weights)


HEADS: Mapping[str, Learner] = MappingProxyType({head.name: head for head in (Logistic(), Sgd())})


def _with_one(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.concatenate([rows.astype(np.float64), np.ones((len(rows), 1))], axis=1)


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _diverged(name: str, why: str) -> Diverged:
    return Diverged(f"the victim's head {name!r} does not converge: {why}", "give another extractor or more images")
