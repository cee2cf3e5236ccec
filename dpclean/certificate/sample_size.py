"""How many runs reach a radius with a given probability, if the shares of votes are what they are expected to be.

In floats: a plan is an estimate, and no certificate is made from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from statistics import NormalDist

from dpclean.certificate import bounds
from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.parameters import MOST_RUNS

REACH = 5.0  # standard deviations of a count that are summed over
_normal = NormalDist()


def largest_shift(pa: float, pb: float) -> float:
    """The true radius / sigma of these shares, which no number of runs exceeds: (Q(p_A) - Q(p_B)) / 2."""
    return (_normal.inv_cdf(pa) - _normal.inv_cdf(pb)) / 2


def runs_for(bound: str, level: Fraction, shift: Fraction, shares: tuple[float, float], power: float) -> int | None:
    """The least number of counted runs that reach radius = shift sigma with probability power."""
    pa, pb = shares
    if largest_shift(pa, pb) <= shift:
        return None
    if bound == "multiclass" and pa + pb < 1 - 1e-12:
        return bounds.least(lambda n: _joint_power(n, float(level), float(shift), pa, pb) >= power, MOST_RUNS)
    p = exact.phi_up(exact.up(shift)) / exact.ONE
    return _by_count(lambda k, n: _error(bound, k, n, p, float(level)) <= level, pa, power)


# ------------------------------------------------------------------------- one count decides: all rivals are one class


def _by_count(passes: Callable[[int, int], bool], pa: float, power: float) -> int | None:
    """The least n such that P[Bin(n, pa) >= k] >= power for a k of n that passes.

    For each k the best n is the largest at which k still passes. Its power rises with k but for its jumps from one n
    to the next, which are smaller than the largest probability of a single count: as far down as that the first is
    searched for, one by one.
    """

    slope = 1.0  # runs a vote, as last found: where to look next

    @cache
    def last(k: int) -> int:
        """The largest n at which k votes pass, 0 if not even k of k do."""
        nonlocal slope
        n = bounds.largest(lambda n: passes(k, n), int(slope * k), floor=k) or 0
        slope = n / k if n else slope
        return n

    def reached(k: int) -> float:
        n = last(k)
        return _tail(k, n, pa) if n else 0.0

    first = bounds.least(lambda k: reached(k) >= power, MOST_RUNS)
    if first is None or last(first) > MOST_RUNS:
        return None
    jump = 1 / math.sqrt(2 * math.pi * last(first) * pa * (1 - pa) + 1)
    k = first
    while k > 1 and reached(k - 1) + jump >= power:
        k -= 1
        if reached(k) >= power:
            first = k
    low, high = first - 1, last(first)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _tail(first, middle, pa) >= power else (middle, high)
    return high


def _error(bound: str, k: int, n: int, p: float, level: float) -> float:
    """What `exact.error_up` bounds, in floats, with rule S of `multiclass` where all other votes are for one class."""
    if 2 * k <= n:
        return 1.0
    if bound == "anytime":
        if p * (n - 1) > k - 1:
            return 1.0
        mixture = math.lgamma(k + 4) + math.lgamma(n - k + 0.25) - math.lgamma(n + 4.25)
        mixture += math.lgamma(4.25) - math.lgamma(4) - math.lgamma(0.25)
        there = (k - 1) * math.log(p) + (n - k) * math.log1p(-p)
        return math.exp(min(0.0, max(there, (1 - n) * math.log(2)) - mixture))
    tail = _tail(k, n, p)
    if bound == "union":
        if math.exp(-2 * n * (p - 0.5) ** 2) < 1e-12 * level:  # Hoeffding: k0 is far below k, its own tail is nothing
            return tail
        k0 = _threshold(n, level)
        return 1.0 if k0 is None or k < k0 else tail + _tail(k0, n, 1 - p)
    if bound == "multiclass":
        return max(tail * 4 / 3, 40 * _tail(k, n, 0.5))
    return tail


@lru_cache(maxsize=1 << 12)
def _threshold(n: int, level: float) -> int | None:
    """k0 of `union`, in floats."""
    low, high = n // 2, n
    if 2 * _tail(n, n, 0.5) > level:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if 2 * _tail(middle, n, 0.5) <= level else (middle, high)
    return high


# ----------------------------------------------------------------------- two counts decide: a rival among several


def _joint_power(n: int, level: float, shift: float, pa: float, pb: float) -> float:
    """P[k_A, k_B of n reach the radius] for `multiclass`, where no third class ever comes before the second.

    Of a large n not every k_A is looked at: one stands for those around it.
    """
    middle, spread = n * pa, math.sqrt(n * pa * (1 - pa))
    step = int(spread / 8) + 1
    least, most = max(1, int(middle - REACH * spread)), min(n, int(middle + REACH * spread) + 1)
    power, low, allowed = 0.0, None, 0
    for begin in range(least, most + 1, step):
        span = range(begin, min(begin + step, most + 1))
        k_a = span[len(span) // 2]
        low = _lower(k_a, n, 0.75 * level, low)
        upper = _normal.cdf(_normal.inv_cdf(low) - 2 * shift)
        found = _most_for_another(k_a, n, level, upper, 1 - low, allowed)
        if found is not None:
            allowed = found
            share = 0.0 if k_a == n else pb / (1 - pa)
            power += sum(_mass(k, n, pa) for k in span) * (1 - _tail(allowed + 1, n - k_a, share))
    return power


def _most_for_another(k_a: int, n: int, level: float, upper: float, rest: float, near: int) -> int | None:
    """The largest k_B beside k_A with an upper bound of at most `upper` and the winner singled out; None without."""
    highest = min(k_a - 1, n - k_a)

    def passes(k_b: int) -> bool:
        if k_b > highest or 40 * _tail(k_a, k_a + k_b, 0.5) > level:
            return False
        return rest <= upper or 5 * (1 - _tail(k_b + 1, n, upper)) <= level

    return bounds.largest(passes, min(near, highest), floor=0)


def _lower(k: int, n: int, level: float, near: float | None) -> float:
    """Clopper-Pearson lower bound by Newton's steps on log T, which is concave in p, from below."""
    p = near if near is not None else max(1e-9, k / n - 4 * math.sqrt(0.25 / n) - 4 / n)
    for _ in range(60):
        tail = _tail(k, n, p)
        step = math.log(level / tail) * tail * p / (k * _mass(k, n, p)) if tail > 0 else p
        p = min(1 - 1e-12, max(p / 2, p + step))
        if abs(step) < 1e-10:
            break
    return p


def _mass(k: int, n: int, p: float) -> float:
    """P[Bin(n, p) = k]."""
    if p <= 0 or p >= 1:
        return float(k == (n if p >= 1 else 0))
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))


def _tail(k: int, n: int, p: float) -> float:
    """P[Bin(n, p) >= k], summed on the side that falls."""
    if k <= 0:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    if k < n * p:
        return 1.0 - _tail(n - k + 1, n, 1 - p)
    term = total = _mass(k, n, p)
    odds = p / (1 - p)
    for i in range(k, n):
        term *= odds * (n - i) / (i + 1)
        total += term
        if term < total * 1e-16:
            break
    return total
