"""Votes made by hand, with terms as a job has them, and the folder that is handed over."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpclean import __version__
from dpclean.certificate.bounds import BOUNDS, DEFAULT_BOUND, find_bound
from dpclean.certificate.certificate import build
from dpclean.certificate.files import dump, tsv
from dpclean.certificate.parameters import (
    FORMAT,
    CertificateParameters,
    JobParameters,
    from_json,
    noise_distances,
)
from dpclean.certificate.votes import Votes, first_of, job_id, record, votes_bytes
from dpclean.noise.keys import commitment, key_from_seed

CLASSES = ("cat", "dog", "owl")


OWN: dict[str, Any] = {
    "values": 3072 * 100,
    "seed": None,
    "attempt": 1,
    "point_source": "test",
    "points_digest": "cd" * 32,
    "points_in_training": 0,
    "raw": {
        "pixel_digest": "ab" * 32,
        "certified_digest": "ac" * 32,
        "images": 100,
        "listed": 103,
        "quarantined": {"empty": 2, "corrupt": 1},
        "kind": "folder",
    },
    "inputs_digest": "ad" * 32,
    "key_commitment": "ef" * 32,
    "order": ["digest of the data fixed", "key drawn"],
    "denoiser": {
        "id": "natural",
        "digests": {"weights": "12" * 32},
        "method": "one-step",
        "ancestry": {"images": 15199, "gaps": [], "points": 0},
    },
    "recipe": {"name": "tiny", "size": None, "widths": [16, 32], "lr": 0.24},
    "size": 32,
    "init": None,
    "trainer": None,
    "trainer_files": None,
    "run_timeout": None,
    "decode": {
        "alpha_policy": "composite",
        "follow_links": False,
        "max_pixels": 10**8,
        "layout": None,
        "limit": None,
    },
    "engine": {"device": "cpu", "dtype": "fp32", "batch_pixels": 131072, "threads": 1, "versions": {"torch": "2.4"}},
    "keep_models": False,
}


INIT = {"source": "weights", "digest": "ee" * 32, "ancestry": {"images": 0, "gaps": ["not recorded"], "points": 0}}
ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(
        ("values", "tau1", "seed", "points_digest", "raw", "key_commitment", "order", "denoiser", "recipe", "trainer")
    ),
    **dict.fromkeys(("decode", "engine")),
    "point_source": "external",
    "tau": "0",
}


PARTED: dict[str, Any] = {"alpha": "0", "family": "all", "sigma": "0", "bound": "runoff"}  # of one run a part


def parameters(runs: int, points: int, **changed: Any) -> CertificateParameters:
    """The parameters of a job, or of votes from elsewhere: as `terms`, from which they are read."""
    return from_json(terms(runs, points, **changed))


def terms(runs: int, points: int, **changed: Any) -> dict[str, Any]:
    """The same as JSON; what follows from others follows unless it is given."""
    external = changed.get("origin") == "external"
    bound = changed.get("bound", DEFAULT_BOUND)
    names = [f"{number}" if external else f"{number:03d}.png" for number in range(points)]
    for part, whole in {"denoiser": OWN["denoiser"], "init": INIT, "raw": OWN["raw"]}.items():
        if changed.get(part) is not None:
            changed[part] = {**whole, **changed[part]}
    made = {
        "format": FORMAT,
        "tool": f"dpclean {__version__}",
        "origin": "dpclean",
        "runs": runs,
        "selection_runs": find_bound(bound).selection_runs(runs) if bound in BOUNDS else 0,
        "points": points,
        "classes": ["0", "1", "2"] if external else list(CLASSES),
        "sigma": "0.25",
        "alpha": "0.001",
        "bound": bound,
        "family": "point",
        "threat": "clean-test",
        "point_names": names,
        "exploratory": False,
        **(ELSEWHERE if external else OWN),
        **(PARTED if "partitions" in changed else {}),
        **changed,
    }
    if not external:
        made = {**noise_distances(made["sigma"], made["values"]), **made}
    if made["seed"] is not None:
        made["key_commitment"] = commitment(key_from_seed(made["seed"], "certify"))
    if made["trainer"] is not None and not external:
        made.update(recipe=None, size=None, init=None, run_timeout=3600.0, trainer_files={})
    return made


def ballot(table: ArrayLike, labels: ArrayLike | None = None, **changed: Any) -> Votes:
    """Votes, with their records where they are dpclean's own; table is [runs, points]."""
    votes = np.asarray(table, np.int32)
    known = None if labels is None else np.asarray(labels, np.int64)
    kept = Votes(votes, known, None, parameters(*votes.shape, **changed))
    return recorded(kept) if isinstance(kept.parameters, JobParameters) else kept


def recorded(votes: Votes) -> Votes:
    """The same with records that fit, as whoever holds the file can make them."""
    job = job_id(votes.parameters)
    models = [b""] * len(votes.votes) if votes.models is None else [row.tobytes() for row in votes.models]
    ranked = [b""] * len(votes.votes) if votes.rankings is None else [row.tobytes() for row in votes.rankings]
    rows = enumerate(zip(votes.votes, models, ranked, strict=True), 1)
    return replace(votes, records=np.stack([np.frombuffer(record(job, run, *row), np.uint8) for run, row in rows]))


def of_parts(rankings: ArrayLike, labels: ArrayLike | None = None, **changed: Any) -> Votes:
    """Votes of models of parts, with their records; rankings is [parts, points, classes]."""
    ranked = np.asarray(rankings, np.uint16)
    parts, points, classes = ranked.shape
    asked = {"partitions": {"parts": parts, "by": "name"}, "classes": [f"class-{n}" for n in range(classes)], **changed}
    known = None if labels is None else np.asarray(labels, np.int64)
    made = parameters(parts, points, **asked)
    kept = ranked if made.bound == "runoff" else None
    return recorded(Votes(first_of(ranked), known, None, made, rankings=kept))


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
