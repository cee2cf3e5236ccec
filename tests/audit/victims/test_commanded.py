"""A victim that is a program: it is given the planted images and all questions at once, and shows nothing of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dpclean.audit.job import audit
from dpclean.errors import InputError, UsageError

EXAMPLE = Path(__file__).parents[3] / "examples" / "trainer.py"
COUNTED = """import pathlib, runpy, sys
counts = [len(list(folder.iterdir())) for folder in sorted(pathlib.Path(sys.argv[1]).iterdir())]
print(*counts, file=open(__file__ + ".calls", "a"))
runpy.run_path({!r}, run_name="__main__")
"""


def test_it_learns_once_for_all_that_it_is_asked(raw: Path, test_images: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(COUNTED.format(str(EXAMPLE)))
    asked: dict[str, Any] = {"test": test_images, "attack": "badnets", "poisons": 12, "targets": 1, "workers": 1}
    asked |= {"trainer": f"{sys.executable} {program} {{data}} {{test}} {{out}}", "defence": "none", "device": "cpu"}
    audit(raw, tmp_path / "audit", **asked)
    told = json.loads((tmp_path / "audit" / "audit.json").read_bytes())
    (row,) = told["rows"]
    assert row["head"] == "trainer" and row["control_accuracy"] == 1.0
    poisoned, control = (tmp_path / "program.py.calls").read_text().splitlines()  # no more calls than these
    assert control == "15 15 15" and "27" in poisoned.split()
    assert str(program) in told["parameters"]["trainer_files"] and "recipe" not in told["parameters"]
    assert "The victim is a program" in (tmp_path / "audit" / "report.html").read_text("utf-8")
    shown = tmp_path / "audit" / "poisons" / "0001"
    target = next(test_images.rglob("*.png"))
    told = json.loads((shown / "poisons.json").read_bytes()) | {"trigger": None, "target_class": target.parent.name}
    told["target"] = str(target.relative_to(test_images))
    told["poisons"] = [one for one in told["poisons"] if not one["name"].startswith(target.parent.name)]
    told["poison_class"], _ = told["poisons"][0]["name"].split("/")
    told["poisons"] = [one for one in told["poisons"] if one["name"].startswith(told["poison_class"])]
    (shown / "poisons.json").write_text(json.dumps(told))
    audit(raw, tmp_path / "brought", **{**asked, "attack": "bullseye-polytope", "poisons_from": shown})
    assert json.loads((tmp_path / "brought" / "audit.json").read_bytes())["rows"][0]["distance_after"] is None
    program.write_text("raise SystemExit('no')")
    with pytest.raises(InputError, match="the trainer left with exit code 1: no"):
        audit(raw, tmp_path / "fails", **asked)


def test_what_it_cannot_be_asked_for(raw: Path, model: Path, tmp_path: Path) -> None:
    def refused(words: str, **asked: Any) -> None:
        with pytest.raises(UsageError, match=words):
            audit(raw, tmp_path / "no", **{"trainer": "train {data} {test} {out}", "surrogate": "tiny", **asked})

    refused("{data} and {test} and {out} in it", trainer="train {data} {out}")
    refused("--trainer is the victim", victim="tiny")
    refused("--trainer is the victim", extractor=model)
    refused("cannot look into a program", surrogate=None)
    refused("bullseye-polytope cannot be crafted with the surrogate 'tiny'")
    refused("gradient-matching cannot be crafted", attack="gradient-matching", surrogate=str(model))
    for defence in ("deep-knn", "spectral", "friends", "adversarial-training:8", "partitions:3"):
        refused("a program shows none", attack="narcissus", defence=defence)
