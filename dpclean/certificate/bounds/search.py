"""Searches among integers, for what passes a test that only costs time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

MOST_RUNS = 10**6


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
