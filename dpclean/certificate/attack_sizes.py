"""How large the attacks are that people have in mind, and whether a budget covers them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from dpclean.certificate.decimals import text
from dpclean.certificate.parameters import CertificateParameters, is_at_test_time

CIFAR_VALUES = 32 * 32 * 3  # an image whose size is not known
PAPER_IMAGES = 500  # that the attacks of arXiv 2403.11981 change
LEVELS_AT_TEST_TIME = (1, 2, 4, 8)

Json = dict[str, Any]


def attack_sizes(parameters: CertificateParameters, budget: int) -> list[Json]:
    """Distances of changes that people have in mind, and whether the largest budget covers each."""
    raw, values = parameters.raw, parameters.values
    if is_at_test_time(parameters):
        return [_row(1, values or CIFAR_VALUES, levels, budget) for levels in LEVELS_AT_TEST_TIME]
    images = raw.images if raw else None
    return attack_rows(values // images if images and values else CIFAR_VALUES, images, budget)


def attack_rows(size: int, images: int | None, budget: int) -> list[Json]:
    """The same for images of so many values; of a data set of fewer than PAPER_IMAGES all are changed."""
    many = min(PAPER_IMAGES, images or PAPER_IMAGES)
    return [_row(count, size, levels, budget) for count, levels in ((1, 1), (1, 8), (1, 16), (many, 8), (many, 16))]


def _row(count: int, size: int, levels: int, budget: int) -> Json:
    what = f"{count} image{'s' if count > 1 else ''} of {size:,} values, each value by {levels} level"
    paper = ", the attack of the paper" if (count, levels) == (PAPER_IMAGES, 16) else ""
    squares = count * size * levels**2
    return {
        "change": what + ("s" if levels > 1 else "") + paper,
        "distance": _root_text(squares),
        "covered_by_largest": squares <= budget,
    }


def _root_text(squares: int) -> str:
    """The distance of a sum of squared grey levels, with 3 decimals, rounded to nearest."""
    thousandths = (math.isqrt(squares * 4_000_000) // 255 + 1) // 2
    return text(Fraction(thousandths, 1000), 3)
