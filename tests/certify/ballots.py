"""Votes made by hand, with terms as a job has them, and the folder that is handed over."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpclean import __version__
from dpclean.certify.certificate import build, dump, tsv
from dpclean.certify.votes import Votes, job_id, record, votes_bytes

CLASSES = ("cat", "dog", "owl")


def terms(runs: int, points: int, **changed: Any) -> dict[str, Any]:
    """The terms of a job; selection_runs follows from bound and runs unless it is given."""
    bound = changed.get("bound", "multiclass")
    return {
        "format": 1,
        "tool": f"dpclean {__version__}",
        "origin": "dpclean",
        "runs": runs,
        "selection_runs": max(1, runs // 10) if bound == "cohen" else 0,
        "points": points,
        "classes": list(CLASSES),
        "sigma": "0.25",
        "alpha": "0.001",
        "bound": bound,
        "family": "point",
        "threat": "clean-test",
        "values": 3072 * 100,
        "tau1": "0.00000000000000000000000001",
        "tau": "0.0000000000000000000031",
        "seed": None,
        "point_names": [f"{number:03d}.png" for number in range(points)],
        "point_source": "test",
        "points_digest": "cd" * 32,
        "raw": {"pixel_digest": "ab" * 32, "images": 100, "listed": 103, "quarantined": {"empty": 2, "corrupt": 1}},
        "key_commitment": "ef" * 32,
        "order": ["digest of the data fixed", "key drawn"],
        "denoiser": {"id": "natural", "digests": {}, "ancestry": {"images": 15199, "gaps": [], "points": 0}},
        "recipe": None,
        "trainer": None,
        "decode": None,
        "engine": None,
        "exploratory": False,
        **changed,
    }


def ballot(table: ArrayLike, labels: ArrayLike | None = None, **changed: Any) -> Votes:
    """Votes with their records; table is [runs, points]."""
    votes = np.asarray(table, np.int32)
    fixed = terms(*votes.shape, **changed)
    job = job_id(fixed)
    records = np.stack([np.frombuffer(record(job, run, row), np.uint8) for run, row in enumerate(votes, 1)])
    return Votes(votes, None if labels is None else np.asarray(labels, np.int64), records, fixed)


def counted(*columns: dict[int, int], runs: int = 100, **changed: Any) -> Votes:
    """Votes with these counts {class: votes} of each point; the other runs have none."""
    table = np.full((runs, len(columns)), -1, np.int32)
    for point, counts in enumerate(columns):
        cast = [label for label, votes in counts.items() for _ in range(votes)]
        table[: len(cast), point] = cast
    return ballot(table, **changed)


def hand_over(folder: Path, votes: Votes) -> Path:
    """The files that `verify` reads, in a new folder."""
    folder.mkdir(parents=True)
    data = votes_bytes(votes)
    certificate = build(votes, hashlib.sha256(data).hexdigest())
    (folder / "votes.safetensors").write_bytes(data)
    (folder / "certificate.json").write_bytes(dump(certificate))
    (folder / "certified.tsv").write_text(tsv(certificate))
    return folder
