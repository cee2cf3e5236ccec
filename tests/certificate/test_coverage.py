"""How often claims are false: exact sums, and a dynamic program where runs are looked at one by one. No sampling.

Each bound must stay at or below its alpha in the worst case; the same sums find the mistakes that others made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.accuracy import accuracy_certificate, mean_holds
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import ClaimSettings, ShareBound
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.votes import count_votes
from tests.certificate.ballots import ballot

ALPHA = Fraction("0.05")
Array = NDArray[np.float64]


def settings(runs: int, alpha: Fraction = ALPHA) -> ClaimSettings:
    return ClaimSettings(runs, alpha, Fraction(1), Fraction(0))


def share_bound(name: str) -> ShareBound:
    bound = find_bound(name)
    assert isinstance(bound, ShareBound)
    return bound


def log_factorials(n: int) -> Array:
    return np.cumsum(np.log(np.maximum(np.arange(n + 1), 1.0)))


def binomial(n: int, p: float) -> Array:
    """P[Bin(n, p) = k] for k = 0..n."""
    k, logs = np.arange(n + 1), log_factorials(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(k, k * np.log(p), 0) + np.where(n - k, (n - k) * np.log(1 - p), 0)
    return np.exp(logs[n] - logs[k] - logs[n - k] + terms)


# ------------------------------------------------------------------------------------------------- two classes


@cache
def shares(bound: str, n: int) -> Array:
    """What is claimed of p_A by k of n votes against n - k; 0 where nothing is."""
    made = [find_bound(bound).claim(settings(n), k, n - k) if 2 * k > n else None for k in range(n + 1)]
    return np.array([float(claim.pa_lower) if claim else 0.0 for claim in made])


@cache
def clopper_pearson(n: int, alpha: Fraction = ALPHA) -> Array:
    """The same with Clopper-Pearson at the full alpha for whatever class these very runs made the winner."""
    found = [share_bound("cohen").pa_lower(settings(n, alpha), k) for k in range(n + 1)]
    return np.array([float(low) if low is not None and low > Fraction(1, 2) else 0.0 for low in found])


def worst_of_two(claimed: Array) -> float:
    """The largest probability of a false claim with classes (p, 1 - p): its jumps are where p is one of the claims."""
    n = len(claimed) - 1
    worst = 0.0
    for p in {0.5, *claimed[claimed > 0.5].tolist()}:
        false = (claimed >= p) & (claimed > 0) | (claimed[::-1] > 1 - p)
        worst = max(worst, float(binomial(n, p)[false].sum()))
    return worst


@pytest.mark.parametrize("runs", [10, 30, 100, 1000])
def test_union_is_false_with_probability_alpha_and_no_more(runs: int) -> None:
    assert 0.04995 < worst_of_two(shares("union", runs)) <= 0.05 + 1e-12


@pytest.mark.parametrize("runs", [17, 30, 100])
def test_multiclass_and_anytime_stay_below_alpha_with_two_classes(runs: int) -> None:
    assert 0.001 < worst_of_two(shares("multiclass", runs)) <= 0.05
    assert 0.001 < worst_of_two(shares("anytime", runs)) <= 0.05


@pytest.mark.parametrize("runs", [10, 30, 100, 1000])
def test_cohen_is_false_with_probability_alpha_where_other_runs_select(runs: int) -> None:
    claimed = clopper_pearson(runs)
    for p in (0.5, 0.6, 0.75, 0.9, 0.99, *claimed[claimed > 0.5].tolist()):
        assert binomial(runs, p)[(claimed >= p) & (claimed > 0)].sum() <= 0.05 + 1e-12


@pytest.mark.parametrize(("runs", "known"), [(30, 0.0987), (1000, 0.0939)])
def test_a_class_and_its_bound_from_the_same_runs_at_full_alpha_would_fail(runs: int, known: float) -> None:
    # as in RAB's utils.py and eval.py, and in structureaware's certify_grid.py
    assert abs(worst_of_two(clopper_pearson(runs)) - known) < 1e-4


# ------------------------------------------------------------------------------------------------ three classes

Claimed = Callable[[int, int], tuple[float, float] | None]  # (k_a, k_b) to (pa_lower, pb_upper)


def triples(n: int) -> NDArray[np.int64]:
    a, b = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    kept = a + b <= n
    return np.stack([a[kept], b[kept], n - a[kept] - b[kept]], axis=1)


def grid() -> Array:
    """All (p1 >= p2 >= p3) in steps of one per cent."""
    return np.array([(a, b, 100 - a - b) for a in range(100) for b in range(a + 1) if 0 <= 100 - a - b <= b]) / 100


def worst_of_three(n: int, claimed: Claimed, with_runner_up: bool) -> float:
    """The largest probability on the grid that a radius / sigma is claimed that the true shares do not have."""
    counts = triples(n)
    made = [claimed(int(k_a), int(k_b)) if k_a > k_b else None for _, k_b, k_a in np.sort(counts, axis=1)]
    reach = np.array([radius(*claim) if claim else -np.inf for claim in made])
    winner = counts.argmax(axis=1)
    logs = log_factorials(n)
    ways = logs[n] - logs[counts].sum(axis=1)
    worst = 0.0
    for shares in grid():
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.exp(ways + np.where(counts, counts * np.log(shares), 0).sum(axis=1))
        rivals = [max(np.delete(shares, label)) if with_runner_up else 1 - shares[label] for label in range(3)]
        true = np.array([radius(share, rival) for share, rival in zip(shares, rivals, strict=True)])
        worst = max(worst, float(chance[reach > true[winner] + 1e-12].sum()))
    return worst


def radius(share: float, rival: float) -> float:
    """(Q(share) - Q(rival)) / 2, for a rival of 1 - share Q(share)."""
    first, second = (NormalDist().inv_cdf(min(max(p, 1e-300), 1 - 1e-16)) for p in (share, rival))
    return (first - second) / 2


def by_bound(bound: str, n: int) -> Claimed:
    def claimed(k_a: int, k_b: int) -> tuple[float, float] | None:
        made = find_bound(bound).claim(settings(n), k_a, k_b)
        return None if made is None else (float(made.pa_lower), float(made.pb_upper or 1 - made.pa_lower))

    return cache(claimed)


@pytest.mark.parametrize(("runs", "known"), [(17, 0.0498), (40, 0.0498), (80, 0.0499)])
def test_union_covers_three_classes(runs: int, known: float) -> None:
    assert abs(worst_of_three(runs, by_bound("union", runs), with_runner_up=False) - known) < 5e-5


@pytest.mark.parametrize(("runs", "known"), [(17, 0.0346), (40, 0.0356), (80, 0.0369)])
def test_multiclass_covers_three_classes(runs: int, known: float) -> None:
    assert abs(worst_of_three(runs, by_bound("multiclass", runs), with_runner_up=True) - known) < 5e-5


@pytest.mark.parametrize(("runs", "known"), [(17, 0.0559), (40, 0.0807), (80, 0.0929)])
def test_two_bounds_at_alpha_without_the_rule_that_the_winner_is_best_would_fail(runs: int, known: float) -> None:
    alone, cohen = settings(runs), share_bound("cohen")

    @cache
    def claimed(k_a: int, k_b: int) -> tuple[float, float] | None:
        low = cohen.pa_lower(alone, k_a)
        other = cohen.pa_lower(alone, runs - k_b)
        assert low is not None and other is not None
        high = min(1 - other, 1 - low)
        return (float(low), float(high)) if low > high else None

    assert worst_of_three(runs, claimed, with_runner_up=True) > known - 5e-5 > 0.05


# --------------------------------------------------------------------------------------------- looking as runs arrive

LOOKS = 4000


def first_false_claim(needed: Sequence[NDArray[np.int64]], p: float) -> float:
    """The probability that within LOOKS runs a class ever has the count that makes a claim of it false.

    needed[0][t]: the count of the first class, with share p, at t runs; needed[1][t]: of the second, with 1 - p. The
    distribution of the first class's count is advanced run by run; what has once been false is taken out.
    """
    alive, caught = np.zeros(LOOKS + 2), 0.0
    alive[0] = 1.0
    for t in range(1, LOOKS + 1):
        alive[1 : t + 1] = alive[1 : t + 1] * (1 - p) + alive[:t] * p
        alive[0] *= 1 - p
        first, second = needed[0][t], t - needed[1][t] + 1  # false from `first` on, and below `second`
        caught += alive[first : t + 1].sum() + alive[: max(0, second)].sum()
        alive[first : t + 1] = alive[: max(0, second)] = 0.0
    return float(caught)


@cache
def anytime_counts(p: float) -> NDArray[np.int64]:
    """At t runs, the least count from which `anytime` claims a share of at least p >= 1/2; t + 1 where none does."""
    a, b, share = 4.0, 0.25, max(p, 0.5)
    rising = {x: np.concatenate([[0.0], np.cumsum(np.log(x + np.arange(LOOKS)))]) for x in (a, b, a + b)}
    needed = np.arange(1, LOOKS + 2)
    for t in range(1, LOOKS + 1):
        k = np.arange(t // 2 + 1, t + 1)
        mixture = rising[a][k] + rising[b][t - k] - rising[a + b][t] + math.log(ALPHA)
        there = (k - 1) * math.log(share) + (t - k) * math.log(1 - share)
        claims = (mixture >= there) & (mixture >= -(t - 1) * math.log(2)) & (k - 1 >= share * (t - 1))
        if claims.any():
            needed[t] = k[claims.argmax()]
    return needed


@cache
def clopper_pearson_counts(p: float) -> NDArray[np.int64]:
    """The same with Clopper-Pearson for a fixed number of runs, which is not for looking again and again."""
    share = max(p, 0.5)
    needed, k = np.arange(1, LOOKS + 2), 0
    for t in range(1, LOOKS + 1):
        upper_tails = binomial(t, share)[::-1].cumsum()[::-1] <= float(ALPHA)
        k = int(upper_tails.argmax()) if upper_tails.any() else t + 1
        needed[t] = k
    return needed


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
def test_the_counts_of_the_program_are_those_of_the_check(share: float) -> None:
    needed, p = anytime_counts(share), exact.up(Fraction(share))
    for t in (1, 5, 6, 17, 100, 999, LOOKS):
        at, anytime = settings(t), share_bound("anytime")
        if needed[t] <= t:
            assert anytime.error_up(at, int(needed[t]), p) <= at.level_down
        assert anytime.error_up(at, int(needed[t]) - 1, p) > at.level_down


KNOWN_ANYTIME = {0.5: 0.0394, 0.6: 0.0268, 0.8: 0.0317, 0.9: 0.0327, 0.95: 0.0307, 0.99: 0.0206}


@pytest.mark.parametrize("share", KNOWN_ANYTIME)
def test_anytime_is_hardly_ever_false_however_often_it_is_looked_at(share: float) -> None:
    found = first_false_claim((anytime_counts(share), anytime_counts(1 - share)), share)
    assert abs(found - KNOWN_ANYTIME[share]) < 1e-4


@pytest.mark.parametrize(("share", "known"), [(0.5, 0.738), (0.6, 0.435), (0.8, 0.384), (0.95, 0.316)])
def test_looking_after_every_run_with_a_bound_for_a_fixed_number_would_fail(share: float, known: float) -> None:
    found = first_false_claim((clopper_pearson_counts(share), clopper_pearson_counts(1 - share)), share)
    assert abs(found - known) < 1e-3


RADII = {  # radius / sigma at alpha = 0.001 for k of n votes, the rest for one other class
    "cohen": {100: (1.500, 1.349, 1.014, 0.395), 1000: (2.463, 1.978, 1.440, 0.701, 0.128),
              10000: (3.199, 2.212, None, 0.797, 0.214)},
    "anytime": {100: (1.438, 1.219, 0.860, 0.223), 1000: (2.396, 1.879, 1.361, 0.632, 0.053),
                10000: (3.125, 2.163, None, 0.771, 0.187)},
}  # fmt: skip


@pytest.mark.parametrize("bound", RADII)
def test_what_looking_costs(bound: str) -> None:
    for runs, known in RADII[bound].items():
        for percent, expected in zip((100, 99, 95, 80, 60), known, strict=False):
            k = runs * percent // 100
            made = find_bound(bound).claim(settings(runs, Fraction("0.001")), k, runs - k)
            assert expected is None or (made is not None and abs(float(made.radius) - expected) <= 0.0005)


# -------------------------------------------------------------------------------------------- accuracy certificate


def mean_lower(total: int, runs: int, points: int, alpha: Fraction) -> Fraction:
    """The largest multiple of 0.0001 that the check lets pass."""
    units = largest(lambda units: mean_holds(total, runs, points, alpha, Fraction(units, 10**4)), 0, floor=0)
    assert units is not None
    return Fraction(units, 10**4)


@pytest.mark.parametrize(
    ("runs", "mu_lower", "at"), [(100, 0.721, (0.631, 0.534, 0.339)), (1000, 0.833, (0.763, 0.679, 0.486))]
)
def test_the_accuracy_certificate_of_the_documentation(runs: int, mu_lower: float, at: tuple[float, ...]) -> None:
    table = np.zeros((runs, 8), np.int32)
    table[:, 0] = 1  # seven of eight points right in every run
    votes = ballot(table, [0] * 8, tau="0")
    assert votes.labels is not None
    found = accuracy_certificate(votes.parameters, votes.labels, count_votes(votes))
    assert found["mean"] == "0.875000" and abs(float(found["mu_lower"]) - mu_lower) <= 0.0005
    curve = {row["distance_over_sigma"]: float(row["accuracy"]) for row in found["curve"]}
    for multiple, expected in zip(("0.25", "0.50", "1.00"), at, strict=True):
        assert abs(curve[multiple] - expected) <= 0.0005


@pytest.mark.parametrize(("runs", "points"), [(20, 1), (100, 1), (20, 3), (50, 2)])
def test_the_mean_is_below_its_bound_with_probability_alpha_at_most(runs: int, points: int) -> None:
    """Runs in which all points are right or wrong together, and runs in which each point is right by itself."""
    for together in (True, False):
        trials, step = (runs, points) if together else (runs * points, 1)
        lower = [float(mean_lower(count * step, runs, points, ALPHA)) for count in range(trials + 1)]
        worst = max(binomial(trials, mu)[np.array(lower) >= mu].sum() for mu in lower if mu > 0)
        assert (0.005 if together else 0.0) < worst <= 0.05
