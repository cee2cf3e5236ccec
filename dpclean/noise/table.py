"""The sampling table of the integer Gaussian, in exact integers.

Column probabilities are integers that sum to 2^96: tails of round(N(0, s^2)), s = 255 sigma, each rounded to the
nearest multiple of 2^-96, then arranged as an alias table (Walker 1977) with first-in first-out queues.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dpclean.errors import UsageError

SIGMA_MAX = 4.0
PRECISION = 240  # bits after the binary point in the tail's series
SLACK = PRECISION - 96 - 60  # log2, in units of 2^-PRECISION: a tail this near to a half is not rounded
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211707")


@dataclass(frozen=True, eq=False)
class Table:
    """Alias table: column c, 0 <= c < 2^m, stands for Z = c - k.

    entry: uint32 [2^m], (threshold >> 64) << m | alias. low: uint64 [2^m], threshold mod 2^64.
    A column keeps itself with probability threshold / 2^(96 - m), else it gives its alias.
    """

    sigma: float
    m: int
    k: int
    entry: NDArray[np.uint32]
    low: NDArray[np.uint64]

    @property
    def total_variation(self) -> Fraction:
        """Upper bound of the total variation distance of one Z to round(N(0, s^2)), ideal random words; exact."""
        return Fraction(self.k + 1, 2**96)


def check_sigma(sigma: float) -> float:
    """sigma as a float from 0 to SIGMA_MAX; UsageError else."""
    try:
        value = float(sigma)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= SIGMA_MAX:  # false for NaN too
        raise UsageError(f"sigma must be from 0 to {SIGMA_MAX:g}, got {sigma!r:.40}", "choose a sigma in that range")
    return value


def _tail(scaled: int, s: Fraction) -> int:
    """2^PRECISION Q(t) for t = scaled / (2 s), where Q is the upper tail of N(0, 1); t < 12.

    Q(t) = 1/2 - phi(t) sum_n t^(2n+1) / (1 3 5 .. (2n+1)): all terms are positive. Each of the fewer than 2^9 that
    count is cut by two units at most, so the sum is off by a part in 2^220; phi sum is below 1/2, phi exact to
    2^-290 of itself: the error is below 2^30 units, far inside SLACK.
    """
    t_squared = Fraction(scaled * scaled * s.denominator**2, 4 * s.numerator**2)
    y = (t_squared.numerator << PRECISION) // t_squared.denominator
    term = total = (scaled * s.denominator << PRECISION) // (2 * s.numerator)
    odd = 1
    while term:
        odd += 2
        term = (term * y >> PRECISION) // odd
        total += term
    with localcontext(prec=95) as context:
        phi = context.exp(-Decimal(t_squared.numerator) / (2 * t_squared.denominator)) / context.sqrt(2 * PI)
        scale = PRECISION + 120  # the sum can reach 2^100, so phi needs more bits than it
        phi_scaled = int(phi * (1 << scale))
    return (1 << PRECISION - 1) - (total * phi_scaled >> scale)


def upper_tail_counts(sigma: float) -> list[int]:
    """C[k] = 2^96 Q((k - 1/2) / s) to the nearest integer, k = 1, 2, ... while that is at least 1."""
    s = 255 * Fraction(sigma)
    counts: list[int] = []
    half, shift = 1 << PRECISION - 97, PRECISION - 96
    while True:
        scaled = 2 * len(counts) + 1  # t = scaled / (2 s)
        if scaled >= 24 * s:  # 2^96 Q(12) < 1/2, and Q falls
            return counts
        tail = _tail(scaled, s)
        remainder = tail & (1 << shift) - 1
        if abs(remainder - half) < 1 << SLACK:
            raise ArithmeticError(f"{PRECISION} bits do not decide the rounding of tail {len(counts) + 1}")
        count = tail + half >> shift
        if count == 0:
            return counts
        counts.append(count)


def _weights(sigma: float) -> list[int]:
    """Probabilities of Z = -k .. k in units of 2^-96."""
    counts = [*upper_tail_counts(sigma), 0]
    up = [a - b for a, b in zip(counts, counts[1:], strict=False)]
    return [*reversed(up), 2**96 - 2 * counts[0], *up]


@lru_cache(maxsize=16)
def table(sigma: float) -> Table:
    """The table of one sigma, 0 < sigma <= SIGMA_MAX; about 0.1 s at 0.25, then cached."""
    w = _weights(sigma)
    k = len(w) // 2
    m = max(1, (len(w) - 1).bit_length())
    full = 1 << 96 - m
    w += [0] * ((1 << m) - len(w))
    threshold, alias = [0] * len(w), list(range(len(w)))
    small = deque(c for c, weight in enumerate(w) if weight < full)
    large = deque(c for c, weight in enumerate(w) if weight >= full)
    while small:
        c, j = small.popleft(), large[0]
        threshold[c], alias[c] = w[c], j
        w[j] -= full - w[c]
        if w[j] < full:
            small.append(large.popleft())
    entry = np.array([t >> 64 << m | a for t, a in zip(threshold, alias, strict=True)], dtype=np.uint32)
    low = np.array([t & (1 << 64) - 1 for t in threshold], dtype=np.uint64)
    entry.setflags(write=False)
    low.setflags(write=False)
    return Table(sigma, m, k, entry, low)
