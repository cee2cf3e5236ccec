"""How many runs reach a radius with a given probability, if the shares of votes are what they are expected to be.

In floats, by scipy: a plan is an estimate, and no certificate is made from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from dpclean.certificate.bounds.search import MOST_RUNS, largest, least


def largest_shift(pa: float, pb: float) -> float:
    """The true radius / sigma of these shares, which no number of runs exceeds: (Q(p_A) - Q(p_B)) / 2."""
    return float(special.ndtri(pa) - special.ndtri(pb)) / 2


# ------------------------------------------------------------------------- one count decides: all rivals are one class


def by_count(passes: Callable[[int, int], bool], pa: float, power: float) -> int | None:
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
        n = largest(lambda n: passes(k, n), int(slope * k), floor=k) or 0
        slope = n / k if n else slope
        return n

    def reached(k: int) -> float:
        n = last(k)
        return tail(k, n, pa) if n else 0.0

    first = least(lambda k: reached(k) >= power, MOST_RUNS)
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
        low, high = (low, middle) if tail(first, middle, pa) >= power else (middle, high)
    return high


# ------------------------------------------------------------------------------------------------ in floats


def mass(k: NDArray[np.int64], n: int, p: float) -> NDArray[np.float64]:
    """P[Bin(n, p) = k], 0 < p < 1."""
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    found: NDArray[np.float64] = np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
    return found


def tail(k: int, n: int, p: float) -> float:
    """P[Bin(n, p) >= k]."""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else float(special.betainc(k, n - k + 1, p))


def lower_bound(k: int, n: int, level: float) -> float:
    """Clopper-Pearson: the share of which k or more of n have that probability."""
    return float(special.betaincinv(k, n - k + 1, level))


def moved(share: float, shift: float) -> float:
    """Phi(Q(share) + shift)."""
    return float(special.ndtr(special.ndtri(share) + shift))
