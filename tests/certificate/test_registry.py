"""A bound is one file and one line: nothing outside its folder names one, so nothing else changes with another one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import dpclean
from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import Claim, ClaimSettings
from dpclean.certificate.threats import THREATS
from dpclean.errors import UsageError

ROOT = Path(dpclean.__file__).parent
HOMES = (ROOT / "certificate" / "bounds", ROOT / "certificate" / "threats.py")
NAMES = {*BOUNDS, *THREATS}


def named(source: str) -> Iterator[str]:
    """The constants of a program that are the name of a bound or of a threat, or a choice among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value.split("|")) <= NAMES:
            yield node.value


def test_nothing_outside_its_home_names_a_bound_or_a_threat() -> None:
    files = [path for path in ROOT.rglob("*.py") if not any(path.is_relative_to(home) for home in HOMES)]
    assert len(files) > 100
    assert {path: list(named(path.read_text("utf-8"))) for path in files if [*named(path.read_text("utf-8"))]} == {}
    program = 'x = bound == "union" or "cohen|anytime" or threat in ("clean-test",) or "a union bound"'
    assert sorted(named(program)) == ["clean-test", "cohen|anytime", "union"]  # what the search would find


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_described_and_its_claims_come_back_from_their_fields(name: str) -> None:
    bound = find_bound(name)
    documented = (ROOT.parent / "docs" / "certificates.md").read_text("utf-8")
    assert bound.name == name and f"`{name}`" in documented and set(bound.threats) <= set(THREATS)
    assert bound.sentence and bound.sentence[-1] != "."
    settings = ClaimSettings(100, Fraction("0.001"), Fraction(1), Fraction(1, 10**9))
    claim = bound.claim(settings, 90, 5)
    assert claim is not None and claim.covers_anything
    assert Claim.of_point(claim.as_json(settings)) == claim and bound.holds(settings, 90, 5, claim)
    assert not bound.holds(settings, 89, 5, claim)


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError) as refusal:
        find_bound("magic")
    assert all(name in refusal.value.remedy for name in BOUNDS)


WITH_ANOTHER = """
import sys
from dpclean.certificate import bounds
bounds._HOMES[sys.argv[1]] = "tests.certificate." + sys.argv[1]  # its one line
bounds.BOUNDS = tuple(bounds._HOMES)
from dpclean.cli import run
sys.exit(run(sys.argv[2:]))
"""


def dpclean_with(bound: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where another bound is registered."""
    command = [sys.executable, "-c", WITH_ANOTHER, bound, *arguments]
    return subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)


def test_another_bound_takes_its_file_and_its_line_and_nothing_else(tmp_path: Path) -> None:
    """It certifies, is verified, planned with and explained; what it does not cover is refused."""
    votes = np.zeros((400, 3), np.int32)
    votes[-30:, 1] = 1
    votes[::2, 2] = 1
    save_file({"votes": votes, "labels": np.zeros(3, np.int64)}, tmp_path / "votes.safetensors")

    def certified(bound: str) -> list[Fraction]:
        out = str(tmp_path / bound)
        options = ["--classes", "2", "--sigma", "0.25", "--bound", bound, "--out", out]
        made = dpclean_with("hoeffding", "certify", "--votes", str(tmp_path / "votes.safetensors"), *options)
        assert made.returncode == 0, made.stderr
        assert dpclean_with("hoeffding", "verify", out, "--quiet").returncode == 0
        points = json.loads((tmp_path / bound / "certificate.json").read_text())["points"]
        return [Fraction(point["certified_radius"]) for point in points]

    weaker, cohen = certified("hoeffding"), certified("cohen")
    assert weaker[2] == cohen[2] == 0 and all(0 < less < more for less, more in zip(weaker[:2], cohen[:2], strict=True))
    assert "an inequality that is older and weaker" in (tmp_path / "hoeffding" / "report.html").read_text()
    planned = dpclean_with(
        "hoeffding", "plan", "--radius", "0.2", "--sigma", "0.25", "--pa", "0.9", "--bound", "hoeffding", "--json"
    )
    assert planned.returncode == 0 and json.loads(planned.stdout)["runs"] > 200, planned.stderr
    refused = dpclean_with(
        "hoeffding", "certify", "--votes", str(tmp_path / "votes.safetensors"), "--classes", "2", "--sigma", "0.25",
        "--bound", "hoeffding", "--threat", "noised-test", "--out", str(tmp_path / "no"),
    )  # fmt: skip
    assert refused.returncode == 2 and "hoeffding makes no claims under noised-test" in refused.stderr


def test_verify_tests_every_claim_by_the_check_and_not_by_the_search_alone(tmp_path: Path) -> None:
    save_file({"votes": np.zeros((100, 2), np.int32)}, tmp_path / "votes.safetensors")
    options = ["--classes", "2", "--sigma", "0.25", "--bound", "reckless", "--out", str(tmp_path / "out")]
    made = dpclean_with("reckless", "certify", "--votes", str(tmp_path / "votes.safetensors"), *options)
    assert made.returncode == 0, made.stderr
    refused = dpclean_with("reckless", "verify", str(tmp_path / "out"))
    assert refused.returncode == 6 and "is more than 100 votes to 0 prove" in refused.stderr
