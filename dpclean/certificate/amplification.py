"""Radii that grow where an image is in few runs only: the tangents that prove them, and a search that proposes some.

An image that was moved is in a run with probability q, and Jensen's inequality for a concave function of the movement
in a run divides the radius by nearly sqrt(q): docs/certificates.md, "Amplified radii". Which tangent is taken does not
matter to the proof: floats propose it, integers decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.interval_arithmetic import ONE

WIDEST = 30  # of what a witness hands to the normal distribution: beyond, it proves nothing and takes long
FARTHEST = 12  # of the k that are searched: y is never so near to 1 that it takes more
NEAREST = 1e-12  # of a y to 0 and 1, in floats
PLACES = 4  # of a witness at most
SMALL = 0.5  # movements below it take four decimals of a witness, above it two
_DECIMAL = re.compile(r"(?!-0\Z)-?(0|[1-9][0-9]?)(\.[0-9]{0,3}[1-9])?")  # in its shortest form
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Witness:
    """The tangent that proves an amplified radius (Lemma 13): decimals k and w > 0."""

    k: Fraction
    w: Fraction

    def holds(self) -> bool:
        """Inequality (13), for certain: the tangent at w^2 lies above psi_k."""
        return _tangent_is_above(self.k, self.w)

    def lower(self, y: int, v: Fraction) -> int:
        """LB(y) of (14), rounded down: what has probability y >= 0 at D has this at least at D'; both of ONE.

        v: V, the squared movement of the images of a run in sigmas, on average at most.
        """
        return (exact.exponential(self.k, up=False) * y >> exact.BITS) - self.offset(v)

    def offset(self, v: Fraction) -> int:
        """B of (14), rounded up."""
        density = Fraction(exact.density(self.k / self.w - self.w / 2, up=v >= self.w**2), ONE)
        return _psi(self.k, self.w, True) + exact.up(density * (v - self.w**2) / (2 * self.w))

    def as_json(self) -> list[str]:
        """[k, w] as decimals in their shortest form."""
        return [_shortest(self.k), _shortest(self.w)]

    @classmethod
    def of_json(cls, found: Any) -> Witness | None:
        """What as_json made; None for anything else, whoever wrote it."""
        if not isinstance(found, list) or len(found) != 2:
            return None
        if not all(isinstance(text, str) and _DECIMAL.fullmatch(text) for text in found):
            return None
        return cls(Fraction(found[0]), Fraction(found[1]))


def _shortest(value: Fraction) -> str:
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")


@lru_cache(maxsize=1 << 14)  # many points have equal witnesses
def _tangent_is_above(k: Fraction, w: Fraction) -> bool:
    if w <= 0 or abs(k) > WIDEST or abs(k / w) + w / 2 > WIDEST or w**4 + 4 * w**2 < 4 * k**2:
        return False
    density = Fraction(exact.density(k / w - w / 2, up=True), ONE)
    spare = _psi(k, w, False) - exact.up(w * density / 2)
    return spare >= max(exact.exponential(k, up=True) - ONE, 0)


@lru_cache(maxsize=1 << 14)
def _psi(k: Fraction, w: Fraction, up: bool) -> int:
    """psi_k(w^2) = e^k Phi(k/w + w/2) - Phi(k/w - w/2), rounded up or down."""
    d1, d2 = k / w + w / 2, k / w - w / 2
    if up:
        product = exact.exponential(k, up=True) * exact.phi_up(exact.up(d1))
        return -(-product >> exact.BITS) - exact.phi_down(exact.down(d2))
    product = exact.exponential(k, up=False) * exact.phi_down(exact.down(d1))
    return (product >> exact.BITS) - exact.phi_up(exact.up(d2))


# --------------------------------------------------------------------------------------------- proposals, in floats


def plain_shift(shares: Sequence[float], target: float) -> float:
    """The s > 0 at which Phi(Q(y) - s), summed over the shares y, is the target; 0 where there is none."""
    quantiles = [_NORMAL.inv_cdf(_inside(y)) for y in shares]

    def kept(s: float) -> float:
        return sum(_NORMAL.cdf(quantile - s) for quantile in quantiles)

    low, high = 0.0, 1.0
    if kept(low) <= target:
        return 0.0
    while kept(high) > target:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) > target else (low, middle)
    return low


def propose(shares: Sequence[float], target: float) -> tuple[tuple[Witness, ...], float]:
    """(a witness for each share y, V) with about the largest V at which LB(y), summed, is the target; (), 0 for none.

    From above by Newton's steps: what the best tangents keep is convex in V.
    """
    v = plain_shift(shares, target) ** 2
    for _ in range(8):
        if v <= 0:
            return (), 0.0
        tangents = [_best(_inside(y), v) for y in shares]
        before, v = v, _reach(tangents, shares, target)
        if abs(v - before) < 1e-7 * v:
            break
    witnesses = tuple(_certain(*tangent) for tangent in tangents)
    return witnesses, max(0.0, v)


def reach(witnesses: Sequence[Witness], shares: Sequence[float], target: float) -> float:
    """The V at which LB(y) of these witnesses, summed over the shares y, is the target, about; 0 where it never is."""
    if len(witnesses) != len(shares) or not all(witness.holds() for witness in witnesses):
        return 0.0
    found = _reach([(float(w.k), float(w.w)) for w in witnesses], shares, target)
    return min(max(0.0, found), plain_shift(shares, target) ** 2)  # which no witness is beyond


def _reach(tangents: Sequence[tuple[float, float]], shares: Sequence[float], target: float) -> float:
    """What is kept falls with V on a line."""
    at_none = sum(_kept(k, w, y, 0.0) for (k, w), y in zip(tangents, shares, strict=True))
    slope = sum(_NORMAL.pdf(k / w - w / 2) / (2 * w) for k, w in tangents)
    return (at_none - target) / slope if slope > 0 else 0.0


def propose_at(y: float, v: float) -> Witness:
    """A witness with about the largest LB(y) at V = v > 0."""
    return _certain(*_best(_inside(y), v))


Tangent = tuple[float, float]  # k, w


def _inside(y: float) -> float:
    return min(max(y, NEAREST), 1 - NEAREST)


def _kept(k: float, w: float, y: float, v: float) -> float:
    """LB(y)."""
    return math.exp(k) * y - _psi_near(k, w) - _NORMAL.pdf(k / w - w / 2) * (v - w * w) / (2 * w)


def _psi_near(k: float, w: float) -> float:
    return math.exp(k) * _NORMAL.cdf(k / w + w / 2) - _NORMAL.cdf(k / w - w / 2)


def _best(y: float, v: float) -> Tangent:
    """By steps that are halved, over the decimals k, each with the narrowest w that holds and is not below sqrt(v)."""
    root = math.sqrt(v)
    places = PLACES if root < SMALL else 2
    unit = 10**places
    own, most = math.ceil(root * unit), FARTHEST * unit

    def tangent(units: int) -> Tangent:
        return units / unit, max(own, _narrowest(units, places)) / unit

    def kept(units: int) -> float:
        return _kept(*tangent(units), y, v)

    at = min(max(round((root * _NORMAL.inv_cdf(y) - v / 2) * unit), -most), most)
    height, step = kept(at), 64
    while step:
        for other in (at + step, at - step):
            if abs(other) <= most and (there := kept(other)) > height:
                at, height = other, there
                break
        else:
            step //= 2
    return tangent(at)


@lru_cache(maxsize=1 << 16)
def _narrowest(units: int, places: int) -> int:
    """The least w that holds with this k, both in units of their last decimal."""
    unit = 10**places
    k = units / unit

    def holds(w: int) -> bool:
        wide = w / unit
        d2 = k / wide - wide / 2
        return bool(_psi_near(k, wide) - wide / 2 * _NORMAL.pdf(d2) >= max(math.expm1(k), 0))

    low: int = math.floor(math.sqrt(2 * math.sqrt(1 + k * k) - 2) * unit)
    high = low + 1
    while not holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _certain(k: float, w: float) -> Witness:
    """The same as decimals, a little wider where a float was wrong about what holds."""
    unit = 10**PLACES
    witness = Witness(Fraction(round(k * unit), unit), Fraction(round(w * unit), unit))
    for widening in range(8):
        if witness.holds():
            break
        witness = Witness(witness.k, witness.w + Fraction(1 << widening, unit))
    return witness
