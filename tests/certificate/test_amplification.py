"""Amplified radii: against known answers that share no code with dpclean, and against exact Neyman-Pearson values."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import pytest

from dpclean.certificate.amplification import Witness, propose_at
from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.bounds.base import ClaimSettings, Moved, proof_as_json, proof_of
from dpclean.certificate.interval_arithmetic import ONE, up
from dpclean.certificate.whole_images import WORD, Edits
from tests.certificate.test_whole_images import KNOWN, shares

AMPLIFIED = [case for case in KNOWN["subsample"] if "amplified" in (case["expected"] or {})]
MICRO = Fraction(1, 10**6)
NORMAL = NormalDist()


@pytest.mark.parametrize("case", KNOWN["witness"], ids=lambda c: f"{c['k']}-{c['w']}-{c['V']}-{c['y']}")
def test_witnesses_are_the_known_ones(case: dict[str, Any]) -> None:
    witness = Witness(Fraction(case["k"]), Fraction(case["w"]))
    assert witness.holds() == case["witness"]
    found = Fraction(witness.lower(up(Fraction(case["y"])), Fraction(case["V"])), ONE)
    assert abs(found - Fraction(case["LB"])) < Fraction(1, 10**22)


def test_a_tangent_that_is_a_little_too_narrow_is_refused() -> None:
    k = Fraction("0.7")
    least = next(w for w in range(1, 10_000) if Witness(k, Fraction(w, 1000)).holds())
    assert Witness(k, Fraction(least, 1000)).holds() and not Witness(k, Fraction(least - 1, 1000)).holds()
    tangent = Witness(k, Fraction(least - 1, 1000)).offset(Fraction(0)) / ONE
    assert tangent < math.expm1(0.7)  # at 0 it would lie below what it has to be above


def test_hostile_witnesses_are_refused_at_once() -> None:
    for k, w in (("1e9", "1"), ("1", "1e-9"), ("0", "1e9"), ("0", "0"), ("0", "-1"), ("-30", "0.0001")):
        assert not Witness(Fraction(k), Fraction(w)).holds()


@pytest.mark.parametrize("changed", [0, 10])
@pytest.mark.parametrize("case", AMPLIFIED, ids=lambda c: f"{c['bound']}-{max(c['counts'].values())}")
def test_published_radii_are_the_best_ones_but_for_the_decimals_of_their_witnesses(
    case: dict[str, Any], changed: int
) -> None:
    bound, settings, k_a, low, high = shares(case)
    best, plain = (Fraction(case["expected"][kind][str(changed)]) for kind in ("amplified", "plain"))
    assert low is not None
    edits = Edits.changed(changed)
    found = bound.radius_beside(settings, k_a, low, high, edits)
    assert found.radius <= best and (found.radius > plain or best == 0)
    assert found.radius > Fraction("0.999") * best or best == 0
    assert len(found.proof) == (0 if best == 0 else 2 if bound.name == "multiclass" else 1)
    assert found.radius == 0 or bound.moved_holds(settings, k_a, edits, found, low, high)
    assert not bound.moved_holds(settings, k_a, edits, replace(found, radius=found.radius + MICRO), low, high)
    assert bound.radius_beside(settings, k_a, low, high, edits, found.proof) == found, "its own proof proves it again"
    joint = bound.radius_beside(replace(settings, noises_points=True), k_a, low, high, edits)
    assert joint.proof == () and abs(joint.radius - plain) <= MICRO, "a test image is in every run"


@pytest.mark.parametrize("case", AMPLIFIED, ids=lambda c: f"{c['bound']}-{max(c['counts'].values())}")
def test_no_witness_claims_more_than_the_best_one(case: dict[str, Any]) -> None:
    bound, settings, k_a, low, high = shares(case)
    best = Fraction(case["expected"]["amplified"]["0"])
    assert low is not None
    beyond = best * Fraction(100_001, 100_000)
    v = float(case["u"] / WORD * beyond**2)
    for k, factor in itertools.product(range(-16, 41), (1.0, 1.1, 1.25, 1.5, 2.0)):
        witness = Witness(Fraction(k, 8), Fraction(round(math.sqrt(v) * factor + 0.005, 2)).limit_denominator(100))
        proof = (witness, witness) if bound.name == "multiclass" else (witness,)
        assert not bound.moved_holds(settings, k_a, Edits(), Moved(beyond, proof), low, high)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_proof_of_the_wrong_number_of_witnesses_proves_nothing(bound: str) -> None:
    rule = find_bound(bound)
    settings = ClaimSettings(1000, Fraction("0.001"), Fraction(1), Fraction(0), WORD // 50, images=100)
    claim = rule.claim(settings, 950, 20)
    assert claim is not None and claim.moved.proof and rule.holds(settings, 950, 20, claim)
    first = claim.moved.proof[:1]
    for proof in ((), first * 3, first * (3 - len(claim.moved.proof))):
        assert not rule.holds(settings, 950, 20, replace(claim, moved=replace(claim.moved, proof=proof)))
    joint = replace(settings, noises_points=True)
    assert not rule.holds(joint, 950, 20, claim), "what moves with the test image is not amplified"


def test_no_more_is_kept_than_of_the_likeliest_sets_at_every_allocation() -> None:
    """The exact least a'(h) of all h with a(h) = y, by Neyman and Pearson: where the likelihood ratio is above e^k."""
    rng = random.Random(3)
    near = 0
    for _ in range(150):
        images, q, c = rng.randint(1, 7), rng.choice((0.02, 0.1, 0.5)), rng.choice((0.5, 2.0, 6.0))
        parts = [rng.random() ** rng.choice((0, 1, 4)) for _ in range(images)]
        moved = [c * c * part / sum(parts) for part in parts]
        sums = [
            (q ** sum(taken) * (1 - q) ** (images - sum(taken)), sum(v for v, t in zip(moved, taken, strict=True) if t))
            for taken in itertools.product((0, 1), repeat=images)
        ]
        k = rng.uniform(-1.5, 2.5)

        def mean(side: float, k: float = k, sums: list[tuple[float, float]] = sums) -> float:
            return sum(
                p * (NORMAL.cdf(k / math.sqrt(v) + side * math.sqrt(v) / 2) if v > 0 else float(k > 0)) for p, v in sums
            )

        y, least = mean(1), mean(-1)
        if not 0.01 < y < 0.9999:
            continue
        v = Fraction(q * c * c)
        for witness in (propose_at(y, float(v)), propose_at(0.9, float(v)), propose_at(y, 2 * float(v))):
            assert witness.holds()
            kept = witness.lower(up(Fraction(y)), v) / ONE
            assert kept <= least + 1e-9
            near += kept > 0.9 * least
    assert near > 20


@pytest.mark.parametrize(
    "found",
    [
        None, "golden", 5, [], [[]], [["0.5"]], [["0.5", 1.2]], [["0.50", "1.2"]], [["-0", "1.2"]], [["00.5", "1.2"]],
        [["0.12345", "1.2"]], [["1e1", "1.2"]], [["0.5", "1.2"], None], [["0.5", "1.2"]] * 3, {"0": ["0.5", "1.2"]},
        [["0.5", "1.2", "1"]], [["0.5\n", "1.2"]],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_not_spelled_as_a_proof_is_none(found: Any) -> None:
    assert proof_of(found) == ()
    assert proof_as_json(proof_of([["-0.5", "1.2"]])) == [["-0.5", "1.2"]]
