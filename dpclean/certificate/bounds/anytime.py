"""Anytime: true at every number of runs at once, so that runs may be looked at and added."""

from __future__ import annotations

import math

from dpclean.certificate.bounds.base import SHARE_UNIT, ClaimSettings, ShareBound
from dpclean.certificate.interval_arithmetic import (
    BITS,
    HALF,
    ONE,
    Number,
    at_least,
    fixed_up,
    over,
    power,
    product,
    times,
)


class Anytime(ShareBound):
    """A mixture martingale over all numbers of runs: p^(k-1) (1-p)^(n-k) / m, m = Beta(k+4, n-k+1/4) / Beta(4, 1/4)."""

    name = "anytime"
    sentence = "true at every number of runs at once: runs may be looked at while they come in, and added later"
    least_share = SHARE_UNIT // 2
    open_ended = True

    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        """At p, or at 1/2 where that is more."""
        k, n = k_a, settings.runs
        if 2 * k <= n or p < HALF or p * (n - 1) > k - 1 << BITS:
            return ONE
        mixture = times(product(4, k + 4, 1, False), product(1, 4 * (n - k) + 1, 4, False), False)
        mixture = over((mixture[0], mixture[1] + 2 * k), product(17, 4 * n + 17, 4, True), False)
        there = times(power((p, -BITS), k - 1, True), power((ONE - p, -BITS), n - k, True), True)
        at_half: Number = (1, 1 - n)
        return min(ONE, fixed_up(over(there if at_least(there, at_half) else at_half, mixture, True)))

    def error(self, k: int, n: int, p: float, level: float) -> float:
        if 2 * k <= n or p * (n - 1) > k - 1:
            return 1.0
        mixture = math.lgamma(k + 4) + math.lgamma(n - k + 0.25) - math.lgamma(n + 4.25)
        mixture += math.lgamma(4.25) - math.lgamma(4) - math.lgamma(0.25)
        there = (k - 1) * math.log(p) + (n - k) * math.log1p(-p)
        return math.exp(min(0.0, max(there, (1 - n) * math.log(2)) - mixture))

    def runs_statement(self, runs: int) -> str:
        return (
            "The claims hold whenever the runs were stopped, and for all numbers of runs at once; the runs that are"
            f" counted are 1 to {runs}, without a gap."
        )


BOUND = Anytime()
