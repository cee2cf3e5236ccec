"""Integer arithmetic: known answers, bounds on both sides of the true value, and the search for the last decimal."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from pathlib import Path

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import Claim, ClaimSettings, Moved, ShareBound
from dpclean.certificate.bounds.union import threshold
from dpclean.certificate.interval_arithmetic import BITS, HALF, ONE

KNOWN = json.loads((Path(__file__).parent.parent / "vectors" / "certificates.json").read_text())["functions"]
mpmath.mp.prec = 400
FAR = 1 << BITS - 100  # 2^-100, where quantiles end


def real(fixed: int) -> mpmath.mpf:
    return mpmath.mpf(fixed) / ONE


@pytest.mark.parametrize("known", KNOWN["normal_cdf"], ids=lambda known: known["x"])
def test_phi_agrees_with_known_answers(known: dict[str, str]) -> None:
    x, cdf = Fraction(known["x"]), Fraction(known["cdf"])
    assert abs(Fraction(exact.phi_up(exact.up(x)), ONE) - cdf) < Fraction(1, 10**29)
    assert abs(Fraction(exact.phi_down(exact.down(x)), ONE) - cdf) < Fraction(1, 10**29)


@pytest.mark.parametrize("known", KNOWN["binomial_tail"], ids=lambda known: f"{known['n']}-{known['k']}")
def test_tails_agree_with_known_answers_or_are_one(known: dict[str, str]) -> None:
    n, k, p = int(known["n"]), int(known["k"]), Fraction(known["p"])
    tail = exact.tail_up(k, n, exact.up(p))
    if (n - k) * p >= (k + 1) * (1 - p):  # not beyond the peak: the check fails, which is safe
        assert tail == ONE
    else:
        truth = mpmath.mpf(known["tail"])
        assert real(tail) >= truth * (1 - mpmath.mpf(10) ** -28)
        assert real(tail) <= truth * (1 + mpmath.mpf(10) ** -28) + real(2)


@given(st.fractions(-25, 25))
def test_phi_is_bounded_from_both_sides(x: Fraction) -> None:
    truth = mpmath.ncdf(mpmath.mpf(x.numerator) / x.denominator)
    low, high = exact.phi_down(exact.down(x)), exact.phi_up(exact.up(x))
    assert real(low) <= truth <= real(high)
    assert high - low < 1 << BITS - 230


@given(st.fractions(0, 200))
def test_exp_is_bounded_from_both_sides(y: Fraction) -> None:
    truth = mpmath.exp(mpmath.mpf(y.numerator) / y.denominator)
    assert real(exact.exp(exact.down(y), False)) <= truth <= real(exact.exp(exact.up(y), True))


@given(st.integers(FAR, ONE - FAR) | st.integers(FAR, FAR << 60) | st.integers(ONE - (FAR << 60), ONE - FAR))
def test_quantiles_pass_the_test_they_promise(y: int) -> None:
    low, high = exact.quantile_down(y), exact.quantile_up(y)
    assert exact.phi_up(low) <= y <= exact.phi_down(high)
    assert high - low < 1 << BITS - 120


@given(st.integers(1, 60), st.data())
def test_a_tail_is_never_below_the_rational_sum_and_hardly_above(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    p = data.draw(st.fractions(0, 1, max_denominator=10**6))
    truth = sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    tail = Fraction(exact.tail_up(k, n, exact.up(p)), ONE)
    assert tail >= truth
    if k and (n - k) * p < (k + 1) * (1 - p):
        assert tail <= truth * (1 + Fraction(1, 2**120)) + Fraction(2, ONE)


@given(st.integers(1, 300), st.sampled_from(["0.5", "0.05", "0.001", "1e-12", "1e-40"]))
def test_k0_is_the_least_count_that_passes(n: int, alpha: str) -> None:
    level = Fraction(alpha)
    passing = [k for k in range(n // 2 + 1, n + 1) if 2 * sum(comb(n, i) for i in range(k, n + 1)) <= level * 2**n]
    assert threshold(n, exact.down(level)) == (min(passing) if passing else None)


fractions = st.builds(Fraction, st.integers(1, 10**30), st.integers(1, 10**30))


@given(fractions, fractions, st.integers(0, 300))
def test_pairs_are_rounded_outward(a: Fraction, b: Fraction, exponent: int) -> None:
    def value(number: exact.Number) -> Fraction:
        return number[0] * Fraction(2) ** number[1]

    assert value(exact.number(a, False)) <= a <= value(exact.number(a, True))
    for up, side in ((False, 1), (True, -1)):
        x, y = exact.number(a, up), exact.number(b, up)
        assert side * value(exact.times(x, y, up)) <= side * value(x) * value(y)
        raised, true = value(exact.power(x, exponent, up)), value(x) ** exponent
        assert side * raised <= side * true <= side * raised + true / 2**170
        assert exact.at_least(x, y) == (value(x) >= value(y))


@pytest.mark.parametrize("known", KNOWN["unanimous_runs"], ids=lambda known: known["radius_over_sigma"])
@pytest.mark.parametrize("bound", ["cohen", "union"])
def test_the_least_unanimous_runs_of_a_radius(known: dict[str, str], bound: str) -> None:
    radius, level, least = Fraction(known["radius_over_sigma"]), Fraction(known["alpha"]), int(known["cohen_n"])
    rule, low = find_bound(bound), Fraction(1, 2)
    assert isinstance(rule, ShareBound)
    settings = [ClaimSettings(n, level, Fraction(1), Fraction(0)) for n in (least - 1, least)]
    assert [rule.radius_holds(each, each.runs, radius, low, None) for each in settings] == [False, True]


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_tau_of_a_half_or_more_proves_nothing(bound: str) -> None:
    settings = ClaimSettings(1000, Fraction(1, 2), Fraction(1), Fraction(1, 2))
    share = Fraction(9, 10)
    for high in (None, 1 - share):
        assert not find_bound(bound).holds(settings, 1000, 0, Claim(share, high, Moved(Fraction(1, 10**6))))


def test_half_is_its_own_quantile() -> None:
    assert exact.quantile_up(HALF) == exact.quantile_down(HALF) == 0
