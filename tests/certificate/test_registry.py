"""A bound is one file and one line: nothing outside its folder names one, so nothing else changes with another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

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
    assert Claim.of_point(claim.as_json()) == claim and bound.holds(settings, 90, 5, claim)
    assert not bound.holds(settings, 89, 5, claim)


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError) as refusal:
        find_bound("magic")
    assert all(name in refusal.value.remedy for name in BOUNDS)
