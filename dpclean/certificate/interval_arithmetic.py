"""Arithmetic in integers, rounded outward, and the check of a claim: no float decides anything here.

Probabilities and quantiles are integers in units of 2^-256. What can be far smaller in between, powers and binomial
coefficients, is a pair (m, e) for m 2^e with 192 bits of m. Up means never below the true value, down never above.
docs/certificates.md, section "The check", says why a claim that passes is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from statistics import NormalDist

BITS = 256
ONE = 1 << BITS
HALF = ONE >> 1
BOUNDS = ("multiclass", "union", "cohen", "anytime")
_MANTISSA = 192
_TINY = 1 << BITS - 250  # where a series of positive terms stops
_SERIES = 200  # bits of the sum of a binomial tail relative to its first term

Number = tuple[int, int]


def up(x: Fraction) -> int:
    """x in units of 2^-256, rounded up."""
    return -((-x.numerator << BITS) // x.denominator)


def down(x: Fraction) -> int:
    """x in units of 2^-256, rounded down."""
    return (x.numerator << BITS) // x.denominator


def _shift(m: int, bits: int, up: bool) -> int:
    return -(-m >> bits) if up else m >> bits


def _divide(a: int, b: int, up: bool) -> int:
    return -(-a // b) if up else a // b


# ------------------------------------------------------------------------------------------- normal distribution


def _arctan_of_inverse(x: int, bits: int) -> int:
    """arctan(1/x) 2^bits, off by less than the number of terms."""
    power, total, odd = (1 << bits) // x, 0, 1
    while power:
        total += power // odd if odd % 4 == 1 else -(power // odd)
        power //= x * x
        odd += 2
    return total


def _pi(up: bool) -> int:
    guard = 64  # Machin's series has some 300 terms; 64 bits more than are kept hide what they lose
    machin = 16 * _arctan_of_inverse(5, BITS + guard) - 4 * _arctan_of_inverse(239, BITS + guard)
    return (machin >> guard) + (2 if up else -1)


_SQRT_TWO_PI = (math.isqrt(2 * _pi(False) << BITS), math.isqrt(2 * _pi(True) << BITS) + 1)


def exp(y: int, up: bool) -> int:
    """e^y for y >= 0, rounded up or down."""
    halvings = max(0, y.bit_length() - BITS + 4)
    y = _shift(y, halvings, up)  # below 1/8: the terms fall faster than 1/2 from the first
    total = term = ONE
    count = 0
    while term >= _TINY:
        count += 1
        term = _divide(_shift(term * y, BITS, up), count, up)
        total += term
    if up:
        total += term  # no less than all that are left
    for _ in range(halvings):
        total = _shift(total * total, BITS, up)
    return total


def _inverse_density(x: int, up: bool) -> int:
    """sqrt(2 pi) exp(x^2 / 2), rounded up or down."""
    return _shift(_SQRT_TWO_PI[up] * exp(_shift(x * x, BITS + 1, up), up), BITS, up)


def _cdf(x: int, up: bool) -> int:
    """Phi(x) = 1/2 + (x + x^3/3 + x^5/(3 5) + ...) exp(-x^2/2) / sqrt(2 pi), rounded up or down."""
    if x < 0:
        return ONE - _cdf(-x, not up)
    if x > 20 << BITS:
        return ONE if up else _cdf(20 << BITS, up)
    squared = _shift(x * x, BITS, up)
    total = term = x
    odd = 1
    while term >= _TINY or 2 * squared >= odd + 2 << BITS:
        odd += 2
        term = _divide(_shift(term * squared, BITS, up), odd, up)
        total += term
    if up:
        total += term
    return min(ONE, HALF + _divide(total << BITS, _inverse_density(x, not up), up))


def phi_up(x: int) -> int:
    """Normal distribution function, rounded up."""
    return _cdf(x, True)


def phi_down(x: int) -> int:
    """Normal distribution function, rounded down."""
    return _cdf(x, False)


def quantile_down(y: int) -> int:
    """An x with Phi(x) <= y for certain and less than 2^-120 to spare, 2^-100 <= y <= 1 - 2^-100."""
    return _quantile(y, False)


def quantile_up(y: int) -> int:
    """An x with Phi(x) >= y for certain and less than 2^-120 to spare, 2^-100 <= y <= 1 - 2^-100."""
    return _quantile(y, True)


@lru_cache(maxsize=1 << 14)
def _quantile(y: int, up: bool) -> int:
    if y > HALF:
        return -_quantile(ONE - y, not up)
    if y == HALF:
        return 0
    x = int(NormalDist().inv_cdf(y / ONE) * 2**64) << BITS - 64
    step = (y - _cdf(x, False)) * _inverse_density(x, False) >> BITS
    x += (step << BITS) // (ONE - (x * step >> BITS + 1))  # Halley; from here on the test decides
    margin = (1 << BITS - 130) * (1 if up else -1)
    x += margin
    while not (_cdf(x, False) >= y if up else _cdf(x, True) <= y):
        x += margin
        margin *= 2
    return x


# ------------------------------------------------------------------------------------- powers and binomial tails


def number(x: Fraction, up: bool) -> Number:
    """x > 0 as a pair, rounded up or down."""
    return _over((x.numerator, 0), (x.denominator, 0), up)


def at_least(a: Number, b: Number) -> bool:
    """Whether a >= b, exactly."""
    shift = a[1] - b[1]
    return a[0] << shift >= b[0] if shift >= 0 else a[0] >= b[0] << -shift


def _trim(m: int, e: int, up: bool) -> Number:
    excess = m.bit_length() - _MANTISSA
    return (m, e) if excess <= 0 else (_shift(m, excess, up), e + excess)


def times(a: Number, b: Number, up: bool) -> Number:
    """a b, rounded up or down."""
    return _trim(a[0] * b[0], a[1] + b[1], up)


def _over(a: Number, b: Number, up: bool) -> Number:
    room = _MANTISSA + b[0].bit_length()
    return _trim(_divide(a[0] << room, b[0], up), a[1] - b[1] - room, up)


def power(a: Number, exponent: int, up: bool) -> Number:
    """a^exponent, rounded up or down; relative error below exponent 2^-190."""
    result: Number = (1, 0)
    while exponent:
        if exponent & 1:
            result = times(result, a, up)
        exponent >>= 1
        if exponent:
            a = times(a, a, up)
    return result


@lru_cache(maxsize=1 << 12)
def _product(start: int, stop: int, step: int, up: bool) -> Number:
    """The product of range(start, stop, step)."""
    result: Number = (1, 0)
    span = 64 * step
    for first in range(start, stop, span):
        result = times(result, (math.prod(range(first, min(stop, first + span), step)), 0), up)
    return result


def _choose_up(n: int, k: int) -> Number:
    k = min(k, n - k)
    return _over(_product(n - k + 1, n + 1, 1, True), _product(1, k + 1, 1, False), True)


def _fixed_up(a: Number) -> int:
    m, e = a
    return m << e + BITS if e + BITS >= 0 else _shift(m, -(e + BITS), True)


def tail_up(k: int, n: int, p: int) -> int:
    """P[Bin(n, p) >= k], rounded up; 1 where k is not beyond the peak, which is safe."""
    if k <= 0:
        return ONE
    if k > n or p <= 0:
        return 0
    q = ONE - p
    if (n - k) * p >= (k + 1) * q:
        return ONE
    odds = -((-p << _SERIES) // q)
    total = term = 1 << _SERIES
    i = k
    while i < n and term >> _SERIES - 130:
        term = -(-term * (n - i) * odds // (i + 1) >> _SERIES)
        total += term
        i += 1
    if i < n:  # the rest falls faster than a geometric series
        rise, fall = (n - i) * p, (i + 1) * q
        total += -(-term * rise // (fall - rise))
    first = times(_choose_up(n, k), times(power((p, -BITS), k, True), power((q, -BITS), n - k, True), True), True)
    return min(ONE, _fixed_up(times(first, (total, -_SERIES), True)))


@lru_cache(maxsize=1 << 10)
def threshold(n: int, level: int) -> int | None:
    """k0 of `union`: the least k > n/2 with 2 T_up(k; n, 1/2) <= level, None if there is none."""
    low, high = n // 2, n
    if 2 * tail_up(n, n, HALF) > level:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if 2 * tail_up(middle, n, HALF) <= level else (middle, high)
    return high


# ------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Setting:
    """What a claim about one point is tested against.

    runs: those that estimate (`cohen`: without the selection). level: alpha, or alpha/P for the family `all`.
    sigma: on the [0, 1] scale. tau: total variation of all noise of a run, below 1/4.
    """

    bound: str
    runs: int
    level: Fraction
    sigma: Fraction
    tau: Fraction

    @cached_property
    def level_down(self) -> int:
        return down(self.level)

    @cached_property
    def tau_up(self) -> int:
        return up(self.tau)


def share_for(setting: Setting, radius: Fraction) -> int:
    """p(r) = Phi(r/sigma + Q(1/2 + tau)) + tau, rounded up: a claim of radius r is false only where p_A is less.

    For `cohen`, `union` and `anytime`; docs/certificates.md, equation (1).
    """
    if setting.tau_up >= HALF:
        return ONE
    x = up(radius / setting.sigma) + quantile_up(HALF + setting.tau_up)
    return phi_up(x) + setting.tau_up


def error_up(setting: Setting, k_a: int, p: int) -> int:
    """How likely `p_A >= p` is claimed wrongly from k_a votes, rounded up: the claim holds where this is <= the level.

    p: from 1/2 for `union` and `anytime`. The tail of each bound of docs/certificates.md, section "Bounds".
    """
    if setting.bound == "union":
        return _union_error(setting, k_a, p)
    if setting.bound == "anytime":
        return _anytime_error(k_a, setting.runs, p)
    tail = tail_up(k_a, setting.runs, p)
    return -(-4 * tail // 3) if setting.bound == "multiclass" else tail


def _union_error(setting: Setting, k: int, p: int) -> int:
    k0 = threshold(setting.runs, setting.level_down)
    if k0 is None or k < k0 or p < HALF:
        return ONE
    return tail_up(k, setting.runs, p) + tail_up(k0, setting.runs, ONE - p)


def _anytime_error(k: int, n: int, p: int) -> int:
    """p^(k-1) (1-p)^(n-k) / m at p, or at 1/2 where that is more; m = Beta(k+4, n-k+1/4) / Beta(4, 1/4)."""
    if 2 * k <= n or p < HALF or p * (n - 1) > k - 1 << BITS:
        return ONE
    mixture = times(_product(4, k + 4, 1, False), _product(1, 4 * (n - k) + 1, 4, False), False)
    mixture = _over((mixture[0], mixture[1] + 2 * k), _product(17, 4 * n + 17, 4, True), False)
    there = times(power((p, -BITS), k - 1, True), power((ONE - p, -BITS), n - k, True), True)
    at_half: Number = (1, 1 - n)
    return min(ONE, _fixed_up(_over(there if at_least(there, at_half) else at_half, mixture, True)))


def winner_is_best(setting: Setting, k_a: int, k_b: int) -> bool:
    """Rule S of `multiclass`: 2 T(k_A; k_A + k_B, 1/2) <= level/20; true for the other bounds, which need none."""
    return setting.bound != "multiclass" or 40 * tail_up(k_a, k_a + k_b, HALF) <= setting.level_down


@lru_cache(maxsize=1 << 14)  # of many points with equal k_A
def lower_holds(setting: Setting, k_a: int, pa_lower: Fraction) -> bool:
    """Whether pa_lower is a lower bound of p_A at the level (`multiclass`: at 3/4 of it)."""
    return error_up(setting, k_a, up(pa_lower)) <= setting.level_down


def upper_holds(setting: Setting, k_b: int, pb_upper: Fraction, pa_lower: Fraction) -> bool:
    """Whether pb_upper is an upper bound of p_B: 1 - pa_lower or more, or by the tail at 1/5 of the level."""
    if pb_upper >= 1 - pa_lower:
        return True
    n = setting.runs
    return 5 * tail_up(n - k_b, n, up(1 - pb_upper)) <= setting.level_down


def radius_holds(
    setting: Setting, k_a: int, radius: Fraction, pa_lower: Fraction | None = None, pb_upper: Fraction | None = None
) -> bool:
    """Whether every data set nearer than radius > 0 has the class of the k_a votes.

    `multiclass` goes from its two bounds, which must hold; the others test p(r) itself and need none.
    """
    if setting.bound != "multiclass":
        return error_up(setting, k_a, share_for(setting, radius)) <= setting.level_down
    assert pa_lower is not None and pb_upper is not None
    low, high = down(pa_lower) - setting.tau_up, up(pb_upper) + setting.tau_up
    if low <= high:
        return False
    x, y, s = quantile_down(low), quantile_up(high), up(radius / setting.sigma)
    if setting.tau == 0 or x - y < 2 * s:  # then not even a tau of 0 would do
        return x - y >= 2 * s
    return phi_down(x - s) - phi_up(y + s) >= 2 * setting.tau_up


def check(
    setting: Setting, k_a: int, k_b: int, radius: Fraction, pa_lower: Fraction, pb_upper: Fraction | None = None
) -> bool:
    """Whether a claim (the class of the k_a votes, radius > 0) with its confidence bounds follows from the counts.

    k_b: the largest count among the other classes. pb_upper: for `multiclass`. For `cohen` the caller sees to it that
    the class is that of the selection runs.
    """
    if setting.bound == "multiclass":
        if pb_upper is None or not winner_is_best(setting, k_a, k_b):
            return False
        if not upper_holds(setting, k_b, pb_upper, pa_lower):
            return False
    return lower_holds(setting, k_a, pa_lower) and radius_holds(setting, k_a, radius, pa_lower, pb_upper)


def mean_holds(total: int, runs: int, points: int, level: Fraction, mean_lower: Fraction) -> bool:
    """Whether the mean of independent values in [0, 1] is at least mean_lower >= 0 at the level.

    total / (runs points) is the mean of the runs' values, each a share of the points. Hoeffding 1963, Theorem 1, raised
    to the power of points: (m/mu)^total ((1-m)/(1-mu))^(runs points - total) >= level^-points, m > mu.
    """
    if mean_lower == 0:
        return True
    count = runs * points
    observed = Fraction(total, count)
    if mean_lower >= observed:
        return False
    evidence = power(number(observed / mean_lower, False), total, False)
    if total < count:
        against = number((1 - observed) / (1 - mean_lower), False)
        evidence = times(evidence, power(against, count - total, False), False)
    return at_least(evidence, power(number(1 / level, True), points, True))
