"""Multiclass: two confidence bounds, of the class and of the next one, and a test that the class is the best."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

from dpclean.certificate.bounds.base import Claim, ClaimSettings, Proof, ShareBound, share_lower
from dpclean.certificate.bounds.search import MOST_RUNS, largest, least
from dpclean.certificate.interval_arithmetic import (
    BITS,
    HALF,
    ONE,
    down,
    phi_down,
    phi_up,
    quantile_down,
    quantile_up,
    tail_up,
    up,
)
from dpclean.certificate.whole_images import Edits, leads, leads_at_radius

REACH = 5.0  # standard deviations of a count that a plan sums over


class Multiclass(ShareBound):
    """p_A from below at 3/4 of alpha, p_B from above at 1/5, and rule S at 1/20: that the class is the best."""

    name = "multiclass"
    sentence = "all runs choose the class; it is held against the next class, not against all others together"

    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        return -(-4 * tail_up(k_a, settings.runs, p) // 3)

    def error(self, k: int, n: int, p: float, level: float) -> float:
        """With rule S where all other votes are for one class."""
        from dpclean.certificate.sample_size import tail

        return 1.0 if 2 * k <= n else max(tail(k, n, p) * 4 / 3, 40 * tail(k, n, 0.5))

    def selects(self, settings: ClaimSettings, k_a: int, k_b: int) -> bool:
        """Rule S: 2 T(k_A; k_A + k_B, 1/2) <= level/20."""
        return k_a > k_b and 40 * tail_up(k_a, k_a + k_b, HALF) <= settings.level_down

    def pb_upper(self, settings: ClaimSettings, k_b: int, pa_lower: Fraction) -> Fraction:
        """Rounded up to 18 decimals, at most 1 - pa_lower."""
        return min(_upper(settings, k_b), 1 - pa_lower)

    def upper_holds(self, settings: ClaimSettings, k_b: int, claim: Claim) -> bool:
        """1 - pa_lower or more, or by the tail at 1/5 of the level."""
        if claim.pb_upper is None or claim.pb_upper >= 1 - claim.pa_lower:
            return claim.pb_upper is not None
        n = settings.runs
        return 5 * tail_up(n - k_b, n, up(1 - claim.pb_upper)) <= settings.level_down

    def radius_holds(
        self, settings: ClaimSettings, k_a: int, radius: Fraction, pa_lower: Fraction, pb_upper: Fraction | None
    ) -> bool:
        """From the two confidence bounds, which must hold."""
        assert pb_upper is not None
        low, high = down(pa_lower) - settings.tau_up, up(pb_upper) + settings.tau_up
        if low <= high:
            return False
        x, y, s = quantile_down(low), quantile_up(high), up(radius / settings.sigma)
        if settings.tau == 0 or x - y < 2 * s:  # then not even a tau of 0 would do
            return x - y >= 2 * s
        return phi_down(x - s) - phi_up(y + s) >= 2 * settings.tau_up

    def edits_hold(
        self, settings: ClaimSettings, k_a: int, share: int, edits: Edits, low: Fraction, high: Fraction | None
    ) -> bool:
        """From the two confidence bounds, which must hold."""
        assert high is not None
        return leads(share, edits, low, high)

    def radius_holds_beside(
        self, settings: ClaimSettings, k_a: int, share: int, edits: Edits, shift: Fraction, v: Fraction, proof: Proof,
        low: Fraction, high: Fraction | None,
    ) -> bool:  # fmt: skip
        assert high is not None
        if len(proof) not in (0, 2):
            return False
        return leads_at_radius(share, edits, settings.tau_up, shift, v, proof, low, high)

    def shift(self, settings: ClaimSettings, low: Fraction, high: Fraction | None) -> int:
        assert high is not None
        x, y = down(low) - settings.tau_up, up(high) + settings.tau_up
        if x <= y:
            return 0
        return (quantile_down(x) - quantile_up(y)) // 2 if settings.tau == 0 else _shift_with_tau(settings, x, y)

    def runs_for(self, level: Fraction, shift: Fraction, shares: tuple[float, float], power: float) -> int | None:
        if sum(shares) > 1 - 1e-12:
            return super().runs_for(level, shift, shares, power)
        return least(lambda n: _joint_power(n, float(level), float(shift), *shares) >= power, MOST_RUNS)

    def effective_shares(self, shares: tuple[float, float]) -> tuple[float, float]:
        return shares


@lru_cache(maxsize=1 << 14)
def _upper(settings: ClaimSettings, k_b: int) -> Fraction:
    runs = settings.runs
    others = share_lower(lambda p: 5 * tail_up(runs - k_b, runs, p), settings.level_down, runs - k_b, runs)
    assert others is not None  # zero always passes
    return 1 - others


def _shift_with_tau(settings: ClaimSettings, low: int, high: int) -> int:
    """The largest s with Phi(x - s) - Phi(y + s) >= 2 tau, rounded down, by Newton's steps and then the test."""
    x, y = quantile_down(low), quantile_up(high)
    normal = NormalDist()

    def spare(s: int) -> int:
        return phi_down(x - s) - phi_up(y + s) - 2 * settings.tau_up

    s = (x - y) // 2
    for _ in range(30):
        slope = normal.pdf((x - s) / ONE) + normal.pdf((y + s) / ONE)
        step = int(spare(s) * Fraction(1 / slope))
        s += step
        if abs(step) < 1 << BITS - 80:
            break
    margin = 1 << BITS - 80
    while s > 0 and spare(s) < 0:
        s -= margin
        margin *= 2
    return s


# ---------------------------------------------------------------------------------------------- plans, in floats


def _joint_power(n: int, level: float, shift: float, pa: float, pb: float) -> float:
    """P[k_A, k_B of n reach the radius], where no third class ever comes before the second.

    Of a large n not every k_A is looked at: one stands for those around it.
    """
    import numpy as np

    from dpclean.certificate.sample_size import lower_bound, mass, moved, tail

    middle, spread = n * pa, math.sqrt(n * pa * (1 - pa))
    step = int(spread / 8) + 1
    fewest, most = max(1, int(middle - REACH * spread)), min(n, int(middle + REACH * spread) + 1)
    power, allowed = 0.0, 0
    for begin in range(fewest, most + 1, step):
        span = np.arange(begin, min(begin + step, most + 1))
        k_a = int(span[len(span) // 2])
        low = lower_bound(k_a, n, 0.75 * level)
        for_another = _most_for_another(k_a, n, level, moved(low, -2 * shift), 1 - low, allowed)
        if for_another is not None:
            allowed = for_another
            share = 0.0 if k_a == n else pb / (1 - pa)
            power += float(mass(span, n, pa).sum()) * (1 - tail(allowed + 1, n - k_a, share))
    return power


def _most_for_another(k_a: int, n: int, level: float, upper: float, rest: float, near: int) -> int | None:
    """The largest k_B beside k_A with an upper bound of at most `upper` and the winner singled out; None without."""
    from dpclean.certificate.sample_size import tail

    highest = min(k_a - 1, n - k_a)

    def passes(k_b: int) -> bool:
        if k_b > highest or 40 * tail(k_a, k_a + k_b, 0.5) > level:
            return False
        return rest <= upper or 5 * tail(n - k_b, n, 1 - upper) <= level

    return largest(passes, min(near, highest), floor=0)


BOUND = Multiclass()
