"""Shares as a reader sees them."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def share(value: object, *, up: bool = False) -> str:
    """A share of 1 in percent with one decimal, rounded down, or up where the value is an upper bound."""
    percent = (Decimal(str(value)) * 100).quantize(Decimal("0.1"), ROUND_CEILING if up else ROUND_FLOOR)
    return f"{percent} %"
