"""All known answers: published to the last digit, never above the truth, and nothing larger passes the check."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import Claim, ClaimSettings, Moved, ShareBound
from dpclean.certificate.bounds.search import largest, least
from dpclean.certificate.decimals import budget

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "certificates.json").read_text())["cases"]
MICRO, ATTO = Fraction(1, 10**6), Fraction(1, 10**18)


@dataclass(frozen=True)
class Known:
    """One case of the vectors, with the class and counts that its bound looks at."""

    bound: ShareBound
    settings: ClaimSettings
    label: int
    k_a: int
    k_b: int
    expected: dict[str, Any]


def known(case: dict[str, Any]) -> Known:
    counts = {int(c): votes for c, votes in case["counts"].items()}
    selection = {int(c): votes for c, votes in case.get("selection", case["counts"]).items()}
    label = min((c for c in selection), key=lambda c: (-selection[c], c), default=-1)
    k_b = max((votes for c, votes in counts.items() if c != label), default=0)
    runs = sum(counts.values()) + case["no_vote"]
    settings = ClaimSettings(runs, *(Fraction(case[name]) for name in ("alpha", "sigma", "tau")))
    bound = find_bound(case["bound"])
    assert isinstance(bound, ShareBound)
    return Known(bound, settings, label, counts.get(label, 0), k_b, case["expected"])


def claim(case: Known) -> Claim | None:
    return case.bound.claim(case.settings, case.k_a, case.k_b)


def case_of(name: str) -> Known:
    return known(next(case for case in CASES if case["id"] == name))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']} {case.get('note', '')}".strip())
def test_known_answer(case: dict[str, Any]) -> None:
    answer = known(case)
    bound, settings, k_a, k_b, expected = answer.bound, answer.settings, answer.k_a, answer.k_b, answer.expected
    made = claim(answer)
    if expected["class"] == -1:
        assert made is None
        return
    assert made is not None and answer.label == expected["class"]

    assert made.radius == Fraction(expected["published"])
    assert bound.holds(settings, k_a, k_b, made)
    assert not bound.holds(settings, k_a, k_b, replace(made, moved=Moved(made.radius + MICRO)))

    true_share = Fraction(expected["pA_low"])
    assert 0 <= true_share - made.pa_lower < ATTO
    assert not bound.lower_holds(settings, k_a, made.pa_lower + ATTO)
    if expected["pB_up"] is not None:
        assert made.pb_upper is not None and 0 <= made.pb_upper - Fraction(expected["pB_up"]) < ATTO
    true_radius = Fraction(expected["radius"])
    slack = true_radius / 10**19  # the vectors have 20 digits
    assert -slack <= true_radius - made.radius < MICRO


def test_selection_and_estimation_that_differ_abstain() -> None:
    # DensePure's certify_noapproximate gives the selection's class the radius of the estimation's winner
    answer = case_of("cohen-066")
    assert answer.k_a < answer.k_b and claim(answer) is None
    assert answer.bound.claim(answer.settings, answer.k_b, answer.k_a) is not None


@pytest.mark.parametrize("bound", BOUNDS)
def test_twenty_unanimous_runs_have_a_finite_radius(bound: str) -> None:
    made = find_bound(bound).claim(ClaimSettings(20, Fraction("0.001"), Fraction(1), Fraction(0)), 20, 0)
    assert made is not None and 0 < made.radius < Fraction("0.56") and made.pa_lower < 1


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("runs", [2, 100, 1000])
def test_a_tie_abstains_at_every_alpha(bound: str, runs: int) -> None:
    assert (
        find_bound(bound).claim(ClaimSettings(runs, Fraction(1, 2), Fraction(1), Fraction(0)), runs // 2, runs // 2)
        is None
    )


@pytest.mark.parametrize("bound", BOUNDS)
def test_runs_that_failed_stay_in_the_number_of_runs(bound: str) -> None:
    all_runs = ClaimSettings(1000, Fraction("0.001"), Fraction(1), Fraction(0))
    kept, whole = (
        find_bound(bound).claim(replace(all_runs, runs=950), 900, 50),
        find_bound(bound).claim(all_runs, 900, 50),
    )
    assert kept is not None and whole is not None and whole.radius < kept.radius


@given(st.sampled_from(BOUNDS), st.integers(20, 200), st.data())
def test_more_votes_never_give_a_smaller_radius(bound: str, runs: int, data: st.DataObject) -> None:
    settings = ClaimSettings(runs, Fraction("0.01"), Fraction(1, 4), Fraction(1, 10**6))
    k_a = data.draw(st.integers(runs // 2, runs - 1))
    k_b = data.draw(st.integers(0, runs - k_a - 1))
    fewer, more = find_bound(bound).claim(settings, k_a, k_b), find_bound(bound).claim(settings, k_a + 1, k_b)
    assert fewer is None or (more is not None and more.radius >= fewer.radius)


@given(st.sampled_from(BOUNDS), st.integers(20, 200), st.data())
def test_tau_and_family_only_take_away(bound: str, runs: int, data: st.DataObject) -> None:
    ideal = ClaimSettings(runs, Fraction("0.01"), Fraction(1, 4), Fraction(0))
    k_a = data.draw(st.integers(runs * 3 // 4, runs))
    made = find_bound(bound).claim(ideal, k_a, runs - k_a)
    for harder in (replace(ideal, tau=Fraction("1e-9")), replace(ideal, level=ideal.level / 100)):
        less = find_bound(bound).claim(harder, k_a, runs - k_a)
        assert less is None or (made is not None and less.radius <= made.radius)


@pytest.mark.parametrize(
    ("radius", "squares"), [("0.25", 4064), ("0.000001", 0), ("1", 65024), ("0.003921", 0), ("0.003922", 1)]
)
def test_the_budget_is_the_largest_integer_below_the_squared_radius(radius: str, squares: int) -> None:
    assert budget(Fraction(radius)) == squares


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_the_search_finds_the_last_that_passes_from_any_guess(last: int, guess: int, floor: int) -> None:
    found = largest(lambda units: units <= last, guess, floor)
    assert found == (last if last >= floor else None)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_least_that_is_enough_is_found_if_any_is(first: int, most: int) -> None:
    assert least(lambda number: number >= first, most) == (first if first <= most else None)
