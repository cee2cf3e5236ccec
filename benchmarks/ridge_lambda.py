"""The penalty and the balance of the head `ridge`, compared on photographs that no published figure is about.

    python benchmarks/ridge_lambda.py PHOTOS SCRATCH

PHOTOS is a folder of classes of Tiny-ImageNet (make_inputs.py). Random groups of 10 and 20 of its classes, no class in
two; of each class 25 random images are points and the rest is drawn from. Every recipe sees the same 200 runs.
Features: efficientnet-lite0 at 112 px, whose ImageNet training may well have seen these photos: they separate better
than new ones would.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine_facts import write_results
from numpy.typing import NDArray

from dpclean.data.features import read_features
from dpclean.train.ridge import Ridge, fit

GROUPS, RUNS, POINTS, SEED = (10, 10, 10, 20), 200, 25, 0
PENALTIES, MEMBERS = (0.03, 0.1, 0.3, 1.0, 3.0), (25, 80)
SURE = 0.5  # of the runs, that the right class must be ahead by


def scores(
    x: NDArray[Any], labels: NDArray[np.int64], points: NDArray[Any], classes: int, penalty: float, balanced: bool
) -> NDArray[Any]:
    """The head of dpclean/train/ridge.py in its dual form, before it is rounded, with the balance left to choose."""
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    there = len(labels) / (classes * np.bincount(labels, minlength=classes)[labels])
    weigh = there if balanced else np.ones(len(labels))
    found: NDArray[Any] = (points @ x.T + 1.0) @ np.linalg.solve(x @ x.T + 1.0 + np.diag(penalty / weigh), y)
    return found


def group(
    rows: NDArray[Any], labels: NDArray[np.int64], members: int, draw: np.random.Generator
) -> dict[str, list[float]]:
    classes = int(labels.max()) + 1
    held = np.zeros(len(rows), bool)
    for name in range(classes):
        held[draw.permutation(np.flatnonzero(labels == name))[:POINTS]] = True
    train, y, points, truth = rows[~held], labels[~held], rows[held], labels[held]
    recipes = [(penalty, balanced) for balanced in (True, False) for penalty in PENALTIES]
    votes = np.zeros((len(recipes), len(points), classes))
    each, same = np.arange(len(points)), 0.0
    for _ in range(RUNS):
        taken = np.flatnonzero(draw.random(len(train)) < members / len(train))
        for place, (penalty, balanced) in enumerate(recipes):
            said = scores(train[taken], y[taken], points, classes, penalty, balanced).argmax(1)
            votes[place, each, said] += 1 / RUNS
            if (penalty, balanced) == (0.3, True):
                head = fit(Ridge(), train[taken].astype(np.float32), y[taken], classes)
                same += float(np.mean(said == (points @ head.weights + head.bias).argmax(1))) / RUNS
    assert same > 0.99, f"this is not the head of dpclean: {same}"
    found: dict[str, list[float]] = {}
    for (penalty, balanced), share in zip(recipes, votes, strict=True):
        right, others = share[each, truth], share.copy()
        others[each, truth] = -1
        ahead = right - others.max(1)
        recipe = f"{penalty:g}, {'balanced' if balanced else 'not balanced'}"
        found[recipe] = [float(v) for v in (right.mean(), (ahead > 0).mean(), (ahead >= SURE).mean(), ahead.mean())]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("scratch", type=Path)
    asked = parser.parse_args()
    draw = np.random.default_rng(SEED)
    folders = sorted(folder for folder in asked.photos.iterdir() if folder.is_dir())
    chosen = [folders[i].name for i in draw.permutation(len(folders))[: sum(GROUPS)]]
    images, out = asked.scratch / "photos", asked.scratch / "photos.safetensors"
    if not out.exists():
        for name in chosen:
            shutil.copytree(asked.photos / name, images / name, dirs_exist_ok=True)
        command = ["features", str(images), "--extractor", "efficientnet-lite0@112", "--out", str(out), "--quiet"]
        subprocess.run([sys.executable, "-m", "dpclean", *command], check=True)
    found = read_features(out)
    names = np.array(found.classes)[found.labels]
    results: dict[str, Any] = {"groups, classes": GROUPS, "runs": RUNS, "points a class": POINTS, "members": {}}
    for members in MEMBERS:
        every, first = [], 0
        for size in GROUPS:
            mine, first = chosen[first : first + size], first + size
            taken = np.isin(names, mine)
            labels = np.array([mine.index(name) for name in names[taken]], np.int64)
            every.append(group(found.rows[taken].astype(np.float64), labels, members, draw))
        fields = ("accuracy of a run", "accuracy of the vote", f"right and ahead by {SURE:g}", "mean lead")
        results["members"][str(members)] = {
            recipe: {
                field: {
                    "mean": round(float(np.mean([one[recipe][i] for one in every])), 4),
                    "groups": [round(one[recipe][i], 4) for one in every],
                }
                for i, field in enumerate(fields)
            }
            for recipe in every[0]
        }
    write_results("ridge_lambda", results)
    for members, table in results["members"].items():
        for recipe, row in table.items():
            print(members, recipe, *(f"{row[field]['mean']:.4f}" for field in fields))


if __name__ == "__main__":
    main()
