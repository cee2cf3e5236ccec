"""How long `dpclean verify` takes for 1,000 runs on 10,000 points in ten classes, on one core, each time a new process.

    python benchmarks/verify_speed.py              prints a table, writes benchmarks/results/verify_speed.json
    python benchmarks/verify_speed.py --repeat 3   fewer repetitions
    python benchmarks/verify_speed.py --runs 10000 --subsample 0.02 --with-images 1,10
                                                   runs on a share, in benchmarks/results/verify_speed_share.json

The votes are drawn, not cast: each point has a share of runs that answer rightly, spread over points as that of a good
classifier, and the others share the rest unevenly. What `verify` takes is set by how many different counts there are,
so these are told too. A copy with one vote changed must be refused, else no time is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from forge_certificates import own_terms
from machine_facts import spread, write_results

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.certificate import build
from dpclean.certificate.files import dump, tsv
from dpclean.certificate.parameters import from_json, noise_distances
from dpclean.certificate.votes import Votes, job_id, record, votes_bytes
from dpclean.certificate.whole_images import numbers_of, word_of

POINTS, CLASSES = 10_000, 10
BLOCK = 500  # points that are drawn at once
Json = dict[str, Any]
VERIFY = "import sys; from dpclean.cli import main; sys.argv[0] = 'dpclean'; main()"


def draw(bound: str, runs: int, whole: Json) -> Votes:
    """Votes as a job leaves them: labels, records and terms; whole: those of runs on a share."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, POINTS)
    right = rng.beta(1.6, 0.5, POINTS)  # mean 0.76, a third of the points above 0.97
    rivals = np.argsort(rng.random((POINTS, CLASSES)), axis=1)
    votes = np.empty((runs, POINTS), np.int32)
    for begin in range(0, POINTS, BLOCK):
        block = slice(begin, begin + BLOCK)
        rank = np.minimum(rng.geometric(0.6, (runs, BLOCK)) - 1, CLASSES - 1)
        other = rivals[block][np.arange(BLOCK), rank]
        votes[:, block] = np.where(rng.random((runs, BLOCK)) < right[block], labels[block], other)
    values = 50_000 * 3072
    own = own_terms()
    terms = {
        **own, "runs": runs, "selection_runs": find_bound(bound).selection_runs(runs),
        "points": POINTS, "bound": bound,
        "classes": [f"class {number}" for number in range(CLASSES)], "values": values,
        **noise_distances("0.25", values), "point_names": [f"{number:05d}.png" for number in range(POINTS)],
        "raw": {**own["raw"], "images": 50_000, "listed": 50_003}, **whole,
    }  # fmt: skip
    return recorded(Votes(votes, labels, None, from_json(terms)))


def recorded(votes: Votes) -> Votes:
    """The same with a record of each run."""
    job = job_id(votes.parameters)
    rows = [np.frombuffer(record(job, run, row), np.uint8) for run, row in enumerate(votes.votes, 1)]
    return replace(votes, records=np.stack(rows))


def hand_over(folder: Path, votes: Votes) -> int:
    """Write what `verify` reads; returns how many claims differ in their counts."""
    folder.mkdir()
    data = votes_bytes(votes)
    certificate = build(votes, hashlib.sha256(data).hexdigest())
    (folder / "votes.safetensors").write_bytes(data)
    (folder / "certificate.json").write_bytes(dump(certificate))
    (folder / "certified.tsv").write_text(tsv(certificate))
    return len({(point["k_a"], point["k_b"]) for point in certificate["points"]})


def seconds(folder: Path, expected: int) -> tuple[float, float]:
    """(wall time, processor time) of one process, from its start to its end; its exit code must be the right one."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", VERIFY, "verify", str(folder)], capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode != expected:
        sys.exit(f"verify_speed: exit code {done.returncode}, expected {expected}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="repetitions of each, interleaved")
    parser.add_argument("--runs", type=int, default=1000, metavar="N")
    parser.add_argument("--subsample", metavar="SHARE", help="each run took a share of the images")
    parser.add_argument("--with-images", metavar="LIST", help="radii beside so many changed images too")
    parser.add_argument("--bound", choices=BOUNDS, action="append", help="these bounds only")
    asked = parser.parse_args()
    repeat, runs, bounds = asked.repeat, asked.runs, asked.bound or BOUNDS
    whole: Json = {} if asked.subsample is None else {"subsample": word_of(asked.subsample)}
    if asked.with_images is not None:
        whole["with_images"] = numbers_of(asked.with_images)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as place:
        folders = {bound: Path(place) / bound for bound in bounds}
        different = {}
        for bound, folder in folders.items():
            votes = draw(bound, runs, whole)
            different[bound] = hand_over(folder, votes)
        edited = Path(shutil.copytree(folder, Path(place) / "edited"))
        votes.votes[runs // 2, POINTS // 2] += 1 if votes.votes[runs // 2, POINTS // 2] < CLASSES - 1 else -1
        (edited / "votes.safetensors").write_bytes(votes_bytes(votes))
        del votes
        seconds(edited, expected=6)

        times: dict[str, list[tuple[float, float]]] = {bound: [] for bound in bounds}
        for _ in range(repeat):
            for bound, folder in folders.items():
                times[bound].append(seconds(folder, expected=0))
    results = {
        bound: {
            "different_counts": different[bound],
            "seconds": spread([wall for wall, _ in measured]),
            "processor_seconds": spread([processor for _, processor in measured]),
        }
        for bound, measured in times.items()
    }
    print(f"{runs} runs x {POINTS} points x {CLASSES} classes, one core")
    print(f"{'bound':<12} {'different counts':>16} {'median':>8} {'quartiles':>15} {'processor time':>15}")
    for bound, measured in times.items():
        wall, processor = (spread(column) for column in zip(*measured, strict=True))
        quartiles = f"{wall['q1']:.2f}-{wall['q3']:.2f}s"
        print(
            f"{bound:<12} {different[bound]:>16} {wall['median']:>7.2f}s {quartiles:>15} {processor['median']:>14.2f}s"
        )
    shape = {"runs": runs, "points": POINTS, "classes": CLASSES, **whole}
    name = "verify_speed_share" if whole else "verify_speed"
    print(f"results in {write_results(name, {**shape, 'bounds': results})}")


if __name__ == "__main__":
    main()
