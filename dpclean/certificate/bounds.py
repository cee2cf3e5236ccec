"""From counts to a claim: confidence bounds and the radius, as large as the check of `exact` lets them be.

Every number that is published is found by search and confirmed by the check: lower bounds and radii are the largest
multiple of their last decimal that passes, upper bounds the smallest.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.interval_arithmetic import ONE, Setting
from dpclean.errors import UsageError

if TYPE_CHECKING:
    from dpclean.certificate.parameters import CertificateParameters

SHARE_UNIT = 10**18  # confidence bounds have 18 decimals
RADIUS_UNIT = 10**6  # radii have 6
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
LONGEST = 60  # characters of a decimal, and places before or after its point: far more than any noise is fine


def exact_decimal(name: str, text: str) -> Fraction:
    """The exact number that a decimal spells, never a float's. Raises UsageError for anything else."""
    if len(text) <= LONGEST and _DECIMAL.fullmatch(text):
        value = Decimal(text)
        if abs(value.adjusted()) <= LONGEST:
            return Fraction(value)
    raise UsageError(f"{name} must be a decimal number, got {text[:LONGEST]!r}", "give a number such as 0.001")


def shortest(name: str, text: str) -> str:
    """The same number in the one spelling of terms: 1e-3 and 0.0010 are 0.001. Raises what exact_decimal does."""
    exact_decimal(name, text)
    return format(Decimal(text).normalize(), "f")


def setting_of(parameters: CertificateParameters) -> Setting:
    """What the points of a job are tested against; its decimals are exact.

    The noise has the exact size of the double nearest to sigma; where that is smaller than sigma, radii use it.
    """
    sigma, level = Fraction(parameters.sigma), Fraction(parameters.alpha)
    if parameters.family == "all":
        level /= parameters.points
    runs = parameters.runs - parameters.selection_runs
    return Setting(parameters.bound, runs, level, min(sigma, Fraction(float(sigma))), Fraction(parameters.tau))


def text(value: Fraction, places: int) -> str:
    """A number from 0 as a decimal, rounded down to so many places."""
    whole, rest = divmod(value.numerator * 10**places // value.denominator, 10**places)
    return f"{whole}.{rest:0{places}d}"


@dataclass(frozen=True)
class Claim:
    """What the counts of one point prove; pb_upper is there for `multiclass` only."""

    pa_lower: Fraction  # a multiple of 10^-18
    pb_upper: Fraction | None  # a multiple of 10^-18
    radius: Fraction  # a multiple of 10^-6, at least that


def claim(setting: Setting, k_a: int, k_b: int) -> Claim | None:
    """The claim for the class with k_a votes of setting.runs, None to abstain; k_b: most votes for another class.

    The radius is in the units of setting.sigma, rounded down to 6 decimals, the bounds outward to 18.
    """
    if setting.bound != "cohen" and k_a <= k_b:
        return None
    if not exact.winner_is_best(setting, k_a, k_b):
        return None
    low = pa_lower(setting, k_a)
    if low is None:
        return None
    high = pb_upper(setting, k_b, low) if setting.bound == "multiclass" else None

    shift = _shift(setting, low, high)
    if shift <= 0:
        return None

    def passes(units: int) -> bool:
        return exact.radius_holds(setting, k_a, Fraction(units, RADIUS_UNIT), low, high)

    units = largest(passes, int(shift * setting.sigma * RADIUS_UNIT / ONE), floor=1)
    return None if units is None else Claim(low, high, Fraction(units, RADIUS_UNIT))


def budget(radius: Fraction) -> int:
    """The largest integer below (255 radius)^2: all sums of squared grey-level changes up to it are covered."""
    squared = (255 * radius) ** 2
    return max(0, -(-squared.numerator // squared.denominator) - 1)


@lru_cache(maxsize=1 << 14)
def pa_lower(setting: Setting, k_a: int) -> Fraction | None:
    """Lower confidence bound of p_A, rounded down to 18 decimals; None where `union` and `anytime` have none."""

    def error(units: int) -> int:
        return exact.error_up(setting, k_a, exact.up(Fraction(units, SHARE_UNIT)))

    floor = SHARE_UNIT // 2 if setting.bound in ("union", "anytime") else 0
    guess = _root(error, setting.level_down, k_a, setting.runs)
    units = largest(lambda units: error(units) <= setting.level_down, guess, floor)
    return None if units is None else Fraction(units, SHARE_UNIT)


def pb_upper(setting: Setting, k_b: int, pa_lower: Fraction) -> Fraction:
    """Upper confidence bound of p_B of `multiclass`, rounded up to 18 decimals, at most 1 - pa_lower."""
    return min(_upper(setting, k_b), 1 - pa_lower)


@lru_cache(maxsize=1 << 14)
def _upper(setting: Setting, k_b: int) -> Fraction:
    runs = setting.runs

    def error(units: int) -> int:
        return 5 * exact.tail_up(runs - k_b, runs, exact.up(Fraction(units, SHARE_UNIT)))

    guess = _root(error, setting.level_down, runs - k_b, runs)
    units = largest(lambda units: error(units) <= setting.level_down, guess, floor=0)
    assert units is not None  # zero always passes
    return 1 - Fraction(units, SHARE_UNIT)


def radius_lower(setting: Setting, k_a: int, k_b: int) -> float:
    """The radius before it is cut to 6 decimals: never above the true value, within 1e-12 of it; 0.0 on abstain."""
    made = claim(setting, k_a, k_b)
    radius = Fraction(_shift(setting, made.pa_lower, made.pb_upper) if made else 0, ONE) * setting.sigma
    nearest = float(radius)
    return math.nextafter(nearest, 0.0) if Fraction(nearest) > radius else nearest


def _shift(setting: Setting, low: Fraction, high: Fraction | None) -> int:
    """radius / sigma that the two bounds allow, rounded down; negative or 0 where they allow none."""
    y = setting.tau_up + (exact.HALF if high is None else exact.up(high))
    x = exact.down(low) - setting.tau_up
    if x <= y:
        return 0
    distance = exact.quantile_down(x) - exact.quantile_up(y)
    if high is None:
        return distance
    return distance // 2 if setting.tau == 0 else _shift_with_tau(setting, x, y)


def _shift_with_tau(setting: Setting, low: int, high: int) -> int:
    """The largest s with Phi(x - s) - Phi(y + s) >= 2 tau, rounded down, by Newton's steps and then the test."""
    x, y = exact.quantile_down(low), exact.quantile_up(high)
    normal = NormalDist()

    def spare(s: int) -> int:
        return exact.phi_down(x - s) - exact.phi_up(y + s) - 2 * setting.tau_up

    s = (x - y) // 2
    for _ in range(30):
        slope = normal.pdf((x - s) / ONE) + normal.pdf((y + s) / ONE)
        step = int(spare(s) * Fraction(1 / slope))
        s += step
        if abs(step) < 1 << exact.BITS - 80:
            break
    margin = 1 << exact.BITS - 80
    while s > 0 and spare(s) < 0:
        s -= margin
        margin *= 2
    return s


# --------------------------------------------------------------------------------------------------------- search


def largest(passes: Callable[[int], bool], guess: int, floor: int) -> int | None:
    """The largest integer from floor on that passes, None if floor does not; where one fails, all above it must fail.

    The nearer the guess, the fewer the tests: two where it is right.
    """
    here, step = max(floor, guess), 1
    if passes(here):
        while passes(here + step):
            here, step = here + step, 2 * step
        low, high = here, here + step
    else:
        while here - step > floor and not passes(here - step):
            here, step = here - step, 2 * step
        low, high = max(floor, here - step), here
        if high == floor or (low == floor and not passes(floor)):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def least(enough: Callable[[int], bool], most: int) -> int | None:
    """The least integer from 1 to most that is enough, None if most is not; what is enough must stay enough."""
    high = 1
    while not enough(high):
        if high == most:
            return None
        high = min(2 * high, most)
    return bisect_left(range(high), True, lo=high // 2 + 1, key=enough)


def _root(error: Callable[[int], int], level: int, k: int, runs: int) -> int:
    """Units of 10^-18 where the error is about the level: secants of its logarithm, from Wilson's bound."""
    if k == 0:
        return 0
    share, z = k / runs, -NormalDist().inv_cdf(level / ONE)
    wide = z * math.sqrt(share * (1 - share) / runs + (z / (2 * runs)) ** 2)
    wilson = (share + z * z / (2 * runs) - wide) / (1 + z * z / runs)
    top = SHARE_UNIT * k // runs - 1
    old, new = int(SHARE_UNIT * wilson * 0.9999), int(SHARE_UNIT * wilson)
    height = math.log(error(old) / level)
    for _ in range(20):
        before, height = height, math.log(error(new) / level)
        if height == before or abs(new - old) < 2:
            break
        old, new = new, min(top, max(1, new - int(height * (new - old) / (height - before))))
    return new
