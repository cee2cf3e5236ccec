"""The check of a lent card is rehearsed here, because minutes on a card are too dear to find its mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECK = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
# what is left out has tests of its own (the build, the tests, the commands, shards), or is torch's compiler
PARTS = ("group_norm", "denoiser", "training", "certify", "fit")


def test_parts_end_well_and_leave_their_figures(tmp_path: Path) -> None:
    """Each in a process of its own, and memcheck's has one more."""
    done = subprocess.run(
        [*CHECK, "--rehearse", "--out", str(tmp_path), "--only", "memcheck", "noise"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu_check.log").read_text()[-4000:]
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert list(parts) == ["memcheck", "noise"] and {part["status"] for part in parts.values()} == {"ok"}
    assert parts["noise"]["result"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_figures(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_parts

    result = getattr(gpu_parts, part)(gpu_parts.Check(rehearse=True, scratch=tmp_path, data=None))
    assert json.loads(json.dumps(result)) == result != {}
    assert part != "training" or result["replayed again gives the same bits"]


def test_loans_go_together_part_by_part_but_no_rehearsals(tmp_path: Path) -> None:
    def loan(name: str, rehearsal: bool = False, **parts: dict[str, object]) -> Path:
        path = tmp_path / name
        machine = {"date": name}
        path.write_text(json.dumps({"gpus": ["card, 1"], "rehearsal": rehearsal, "machine": machine, "parts": parts}))
        return path

    def gathered(*paths: Path) -> subprocess.CompletedProcess[str]:
        command = [*CHECK, "--out", str(tmp_path), "--gather", *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True)

    ok, failed, late = ({"status": status, "result": {}} for status in ("ok", "failed with 1", "not done after 9 s"))
    assert (
        gathered(loan("1", noise=ok, tests=ok, build=ok), loan("2", build=ok, tests=failed, noise=late)).returncode == 0
    )
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert {name: (part["status"], part["date"]) for name, part in parts.items()} == {
        "build": ("ok", "2"), "tests": ("failed with 1", "2"), "noise": ("ok", "1"),
    }  # fmt: skip
    refused = gathered(loan("3", rehearsal=True, noise=ok))
    assert refused.returncode == 1 and "no rehearsals" in refused.stderr
