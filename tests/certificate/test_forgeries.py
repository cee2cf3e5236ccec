"""A short round of the program that forges certificates: none is accepted, none ends in an error of dpclean's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dpclean.certificate.parameters import from_json, issuers_terms

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "forge_certificates.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    found = importlib.util.spec_from_file_location("forge_certificates", PROGRAM)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["forge_certificates"] = module  # dataclasses look there
    found.loader.exec_module(module)
    return module


def test_no_forgery_is_accepted_and_none_crashes(program: ModuleType, tmp_path: Path) -> None:
    tallies = program.forge(tmp_path, mutations=10, seed=2)
    assert {kind: (tally.accepted, tally.crashed) for kind, tally in tallies.items()} == dict.fromkeys(
        tallies, ([], [])
    )
    assert sum(tally.refused.total() for tally in tallies.values()) > 300
    assert tallies["votes, all else made anew"].issuers_word == 30
    assert tallies["votes, terms as they were"].refused.total() == 5
    of_share = tallies["whole images and what is amplified"]
    assert of_share.refused.total() > 35 > 3 * of_share.same_numbers  # another witness may prove the same


def test_terms_that_follow_from_others_are_nobodys_word(program: ModuleType) -> None:
    own, elsewhere = (
        set(issuers_terms(from_json(terms))) for terms in (program.own_terms(), program.elsewhere_terms())
    )
    assert set(program.own_terms()) - own == {
        "format", "order", "points", "run_timeout", "runs", "selection_runs", "tau", "tau1",
        "trainer_files",
    }  # fmt: skip
    assert elsewhere == {
        "alpha", "bound", "exploratory", "family", "origin", "point_source", "selection_runs", "sigma", "tau", "threat",
        "tool",
    }  # fmt: skip
    assert "key_commitment" not in issuers_terms(from_json({**program.own_terms(), "seed": 7}))
