"""Union: the class and its share from the same runs, at the price of one more tail."""

from __future__ import annotations

import math
from functools import lru_cache

from dpclean.certificate.bounds.base import SHARE_UNIT, ClaimSettings, ShareBound
from dpclean.certificate.interval_arithmetic import HALF, ONE, tail_up


class Union(ShareBound):
    """P[k >= k_A] and, for the other class, P[k >= k0] together at alpha; a majority of at least k0 votes."""

    name = "union"
    sentence = "all runs choose the class and are counted for it, and all other classes are taken as one"
    least_share = SHARE_UNIT // 2

    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        k0 = threshold(settings.runs, settings.level_down)
        if k0 is None or k_a < k0 or p < HALF:
            return ONE
        return tail_up(k_a, settings.runs, p) + tail_up(k0, settings.runs, ONE - p)

    def error(self, k: int, n: int, p: float, level: float) -> float:
        from dpclean.certificate.sample_size import tail

        if 2 * k <= n:
            return 1.0
        if math.exp(-2 * n * (p - 0.5) ** 2) < 1e-12 * level:  # Hoeffding: k0 is far below k, its own tail is nothing
            return tail(k, n, p)
        k0 = _threshold(n, level)
        return 1.0 if k0 is None or k < k0 else tail(k, n, p) + tail(k0, n, 1 - p)


@lru_cache(maxsize=1 << 10)
def threshold(n: int, level: int) -> int | None:
    """k0, the least k > n/2 with 2 T_up(k; n, 1/2) <= level, None if there is none."""
    low, high = n // 2, n
    if 2 * tail_up(n, n, HALF) > level:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if 2 * tail_up(middle, n, HALF) <= level else (middle, high)
    return high


@lru_cache(maxsize=1 << 12)
def _threshold(n: int, level: float) -> int | None:
    """The same in floats."""
    from dpclean.certificate.sample_size import tail

    low, high = n // 2, n
    if 2 * tail(n, n, 0.5) > level:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if 2 * tail(middle, n, 0.5) <= level else (middle, high)
    return high


BOUND = Union()
