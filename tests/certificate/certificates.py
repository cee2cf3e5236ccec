"""Certificates made from votes that are drawn here, for what is tested on whole ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.certificate import build
from dpclean.certificate.votes import Votes
from tests.certificate.ballots import parameters


def draw(runs: int, points: int, classes: int, seed: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Votes int32 [runs, points] and labels int64 [points]: points of every difficulty, some wrong, failed runs."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, points)
    favourite = np.where(rng.random(points) < 0.9, labels, (labels + 1) % classes)
    agrees = rng.random((runs, points)) < 1 - rng.random(points) ** 3
    votes = np.where(agrees, favourite, rng.integers(0, classes, (runs, points)))
    votes[rng.random(runs) < 0.02] = -1
    return votes.astype(np.int32), labels.astype(np.int64)


def certificate(
    votes: NDArray[np.int32], labels: NDArray[np.int64] | None, classes: int | list[str], **changes: Any
) -> dict[str, Any]:
    """What `certify` makes of votes of its own; changes are terms."""
    runs, points = votes.shape
    names = [f"class-{number}" for number in range(classes)] if isinstance(classes, int) else classes
    changes = {"point_names": [f"test/{number:05d}.png" for number in range(points)], "tau": "0", **changes}
    return build(Votes(votes, labels, None, parameters(runs, points, classes=names, **changes)), "77" * 32)


def drawn(runs: int = 200, points: int = 60, classes: int | list[str] = 5, **changes: Any) -> dict[str, Any]:
    """A certificate of drawn votes, with labels."""
    votes, labels = draw(runs, points, classes if isinstance(classes, int) else len(classes))
    return certificate(votes, labels, classes, **changes)
