"""Decimals as they are published: exact numbers in, numbers rounded down out, never a float's."""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from fractions import Fraction

from dpclean.errors import UsageError

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
    if exact_decimal(name, text) == 0:
        return "0"  # whatever its sign
    with localcontext(prec=LONGEST):  # of all its digits none is lost
        return format(Decimal(text).normalize(), "f")


def text(value: Fraction, places: int) -> str:
    """A number from 0 as a decimal, rounded down to so many places."""
    whole, rest = divmod(value.numerator * 10**places // value.denominator, 10**places)
    return f"{whole}.{rest:0{places}d}"


def budget(radius: Fraction) -> int:
    """The largest integer below (255 radius)^2: all sums of squared grey-level changes up to it are covered."""
    squared = (255 * radius) ** 2
    return max(0, -(-squared.numerator // squared.denominator) - 1)
