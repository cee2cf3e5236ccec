"""Theorems on whole images, against known answers that share no code with dpclean and against exact small worlds."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dpclean.certificate.bounds import find_bound
from dpclean.certificate.bounds.base import ClaimSettings, Moved, ShareBound
from dpclean.certificate.interval_arithmetic import ONE, density, exponential
from dpclean.certificate.limits import check_parameters
from dpclean.certificate.whole_images import WORD, Edits, Images, leads, share_for, untouched
from dpclean.errors import UsageError
from tests.certificate.ballots import OWN, parameters

KNOWN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "whole_images.json").read_text())
ALPHA = Fraction("0.001")
TAU = Fraction("6e-18")


def shares(case: dict[str, Any]) -> tuple[ShareBound, ClaimSettings, int, Fraction | None, Fraction | None]:
    """A bound, what it is tested against, k_A, and its confidence bounds."""
    bound = find_bound(case["bound"])
    assert isinstance(bound, ShareBound)
    counts = sorted(case["counts"].values(), reverse=True)
    settings = ClaimSettings(sum(counts) + case["no_vote"], ALPHA, Fraction(1), TAU, case["u"], images=10**6)
    k_a, k_b = counts[0], counts[1] if len(counts) > 1 else 0
    low = bound.pa_lower(settings, k_a) if bound.selects(settings, k_a, k_b) else None
    return bound, settings, k_a, low, None if low is None else bound.pb_upper(settings, k_b, low)


@pytest.mark.parametrize(
    "case", KNOWN["subsample"], ids=lambda c: f"{c['bound']}-{max(c['counts'].values())}-{c['share']}"
)
def test_the_numbers_of_images_are_the_known_ones(case: dict[str, Any]) -> None:
    bound, settings, k_a, low, high = shares(case)
    expected = case["expected"]
    if expected is None:
        assert low is None
        return
    assert low == Fraction(expected["pa_lower"])
    assert high == (None if expected["pb_upper"] is None else Fraction(expected["pb_upper"]))

    def holds(edits: Edits) -> bool:
        assert low is not None
        return bound.edits_hold(settings, k_a, case["u"], edits, low, high)

    assert not holds(Edits(10**6, 10**6))
    known = {name: max(0, expected[name]) for name in ("images_inserted", "images_changed", "images_missing")}
    for gap in (0.0, 0.3, 1.0):  # wherever the search begins
        assert Images.most(holds, 10**6, case["u"], gap).as_json() == known
    assert Images.most(holds, 7, case["u"], 0.5).inserted == min(7, known["images_inserted"])
    assert holds(Edits()) == (expected["images_inserted"] >= 0)


@pytest.mark.parametrize(
    ("case", "changed"),
    [(case, int(m)) for case in KNOWN["subsample"] if "plain" in (case["expected"] or {}) for m in ("0", "10", "25")],
)
def test_radii_that_are_not_amplified_are_the_known_ones(case: dict[str, Any], changed: int) -> None:
    bound, settings, k_a, low, high = shares(case)
    known = Fraction(case["expected"]["plain"][str(changed)])
    assert low is not None

    def holds(radius: Fraction) -> bool:
        return bound.moved_holds(settings, k_a, Edits.changed(changed), Moved(radius), low, high)

    if known:
        assert holds(known - Fraction(1, 10**9))
    assert not holds(known + Fraction(1, 10**9))


def test_normal_density_and_exponential_are_rounded_outward() -> None:
    for x in (Fraction(0), Fraction(1, 3), Fraction(-7, 5), Fraction(25)):
        below, above = density(x, up=False), density(x, up=True)
        assert below <= above <= below + (1 << 8)
        assert above / ONE == pytest.approx(math.exp(-(float(x) ** 2) / 2) / math.sqrt(2 * math.pi), rel=1e-12)
    for x in (Fraction(0), Fraction(2, 3), Fraction(-13, 5), Fraction(-25)):
        below, above = exponential(x, up=False), exponential(x, up=True)
        assert below <= above and above / ONE == pytest.approx(math.exp(x), rel=1e-12)


def test_the_share_that_is_untouched_is_rounded_down_and_quick() -> None:
    for images, share in itertools.product((0, 1, 7, 100), (1, WORD // 50, WORD // 2, WORD - 1)):
        exactly = Fraction(WORD - share, WORD) ** images
        assert exactly - Fraction(1, 2**200) <= untouched(share, images) <= exactly
    assert untouched(1, WORD - 1) < Fraction(37, 100) and untouched(WORD // 2, WORD - 1) == 0
    assert share_for(WORD // 2, Edits(0, WORD - 1)) is None and not leads(
        WORD // 2, Edits(9, 9), Fraction(1), Fraction(0)
    )


# -- small worlds, in exact fractions: whatever a run makes of its members, no claim is false


def votes(rule: dict[frozenset[str], str], images: list[str], q: Fraction) -> dict[str, Fraction]:
    """How likely a run votes for each class: the sum over all sets of members."""
    found: dict[str, Fraction] = {}
    for members in subsets(images):
        weight = q ** len(members) * (1 - q) ** (len(images) - len(members))
        found[rule[members]] = found.get(rule[members], Fraction(0)) + weight
    return found


def subsets(images: list[str]) -> Iterator[frozenset[str]]:
    for size in range(len(images) + 1):
        yield from map(frozenset, itertools.combinations(images, size))


def test_no_rule_breaks_the_theorem() -> None:
    rng = random.Random(5)
    claims = 0
    for _ in range(600):
        share = rng.choice((WORD // 8, WORD // 4, WORD // 3))
        q = Fraction(share, WORD)
        common, inserted, missing = (
            list(name) for name in ("ab", "IJ"[: rng.randint(0, 2)], "XY"[: rng.randint(0, 2)])
        )
        in_favour = rng.random() ** 0.3
        rule = {
            members: "A" if rng.random() < in_favour else rng.choice("BC") for members in subsets([*common, *"IJXY"])
        }
        if rng.random() < 0.5:  # the worst: what was touched votes against
            rule = {members: v if not members & {*"XY"} else "B" for members, v in rule.items()}
            rule = {members: v if not members & {*"IJ"} else "A" for members, v in rule.items()}
        here, there = votes(rule, common + inserted, q), votes(rule, common + missing, q)
        best, *rest = sorted(here.items(), key=lambda item: -item[1])
        second = rest[0][1] if rest else Fraction(0)
        edits = Edits(len(inserted), len(missing))
        if best[1] > second and leads(share, edits, best[1], second):
            claims += 1
            assert all(there.get(best[0], 0) > p for name, p in there.items() if name != best[0])
        p = share_for(share, edits)
        if p is not None and best[1] * ONE > p:
            assert there.get(best[0], Fraction(0)) > Fraction(1, 2)
    assert claims > 100


def test_the_theorem_is_tight() -> None:
    """B wherever the marked image is: A flips exactly when a run without it is no more likely than one with it."""
    for share in (1, WORD // 3, WORD // 2 - 1, WORD // 2, WORD // 2 + 1, WORD - 1):
        flips = 2 * Fraction(WORD - share, WORD) <= 1
        assert leads(share, Edits(0, 1), Fraction(1), Fraction(0)) is not flips
        assert (share_for(share, Edits(0, 1)) is None) is flips


@pytest.mark.parametrize(
    "changed",
    [
        {"decode": {**OWN["decode"], "limit": 50}},
        {"decode": {**OWN["decode"], "sample": 50}},
        {"raw": {"quarantined": {"name-collision": 1}}},
        {"raw": {"quarantined": {"timeout": 1}}},
        {"raw": {"quarantined": {"decoder-died": 1}}},
        {"raw": {"quarantined": {"bad-shard": 1}}},
        {"threat": "noised-test", "sigma": "0"},
        {"point_source": "holdout"},
    ],
    ids=str,
)
def test_data_of_which_one_image_decides_about_others_have_no_claims_on_whole_images(changed: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"subsample": WORD // 50}
    check_parameters(parameters(1000, 1, **asked))
    with pytest.raises(UsageError):
        check_parameters(parameters(1000, 1, **asked, **changed))
