"""A bound that dpclean does not have: Hoeffding's inequality in place of the binomial tail, training images alone."""

from __future__ import annotations

import math

from dpclean.certificate.bounds.base import ClaimSettings
from dpclean.certificate.bounds.cohen import Cohen
from dpclean.certificate.interval_arithmetic import BITS, ONE, exp


class Hoeffding(Cohen):
    """P[Bin(n, p) >= k] <= exp(-2 (k - n p)^2 / n) where k >= n p."""

    name = "hoeffding"
    sentence = "as cohen, by an inequality that is older and weaker"
    threats = ("clean-test",)

    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        beyond = (k_a << BITS) - settings.runs * p
        if beyond <= 0:
            return ONE
        return -(-ONE * ONE // exp(2 * beyond * beyond // settings.runs >> BITS, False))

    def error(self, k: int, n: int, p: float, level: float) -> float:
        return math.exp(-2 * max(0.0, k - n * p) ** 2 / n) if 2 * k > n else 1.0


BOUND = Hoeffding()
