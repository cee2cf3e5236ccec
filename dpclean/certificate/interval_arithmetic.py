"""Arithmetic in integers, rounded outward: no float decides anything here.

Probabilities and quantiles are integers in units of 2^-256. What can be far smaller in between, powers and binomial
coefficients, is a pair (m, e) for m 2^e with 192 bits of m. Up means never below the true value, down never above.
docs/certificates.md, section "The check", says why a claim that passes is true.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

BITS = 256
ONE = 1 << BITS
HALF = ONE >> 1
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


_up = up  # where a parameter has this name


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


@lru_cache(maxsize=1 << 14)  # curves of equal means, and points of equal counts, ask again
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


def density(x: Fraction, up: bool) -> int:
    """Density of the normal distribution, rounded up or down."""
    nearest = down(abs(x)) if up else _up(abs(x))  # it falls with the distance from 0
    return _divide(ONE << BITS, _inverse_density(nearest, not up), up)


def exponential(x: Fraction, up: bool) -> int:
    """e^x, rounded up or down."""
    if x < 0:
        return _divide(ONE << BITS, exponential(-x, not up), up)
    return exp(_up(x) if up else down(x), up)


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
    return over((x.numerator, 0), (x.denominator, 0), up)


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


def over(a: Number, b: Number, up: bool) -> Number:
    """a / b, rounded up or down."""
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
def product(start: int, stop: int, step: int, up: bool) -> Number:
    """The product of range(start, stop, step)."""
    result: Number = (1, 0)
    span = 64 * step
    for first in range(start, stop, span):
        result = times(result, (math.prod(range(first, min(stop, first + span), step)), 0), up)
    return result


def _choose_up(n: int, k: int) -> Number:
    k = min(k, n - k)
    return over(product(n - k + 1, n + 1, 1, True), product(1, k + 1, 1, False), True)


def fixed_up(a: Number) -> int:
    """In units of 2^-256, rounded up."""
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
    return min(ONE, fixed_up(times(first, (total, -_SERIES), True)))
