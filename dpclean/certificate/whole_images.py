"""Certificates against whole images that an attacker inserted, changed or took away, from runs on random shares.

A run takes each image independently with probability q = share / 2^32. Whatever the attacker did to R + A images, a
run that takes none of them is as it would have been: docs/certificates.md, "Whole images", has the theorems. Integers
decide; nothing here is a float but the guesses that a search begins from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.decimals import exact_decimal
from dpclean.certificate.interval_arithmetic import ONE
from dpclean.errors import UsageError

WORD = 1 << 32  # shares are multiples of its inverse
MOST = WORD - 1  # images of a claim
WIDEST = 30  # of what a witness hands to the normal distribution: beyond, it proves nothing and takes long


@dataclass(frozen=True)
class Edits:
    """What the attacker did at most: `inserted` images that would not have been there, `missing` ones that would.

    Both from 0. An image changed at will is one of each: what was there is missing, what is there was inserted.
    """

    inserted: int = 0
    missing: int = 0

    @classmethod
    def changed(cls, images: int) -> Edits:
        return cls(images, images)


@dataclass(frozen=True)
class Witness:
    """The tangent that proves an amplified radius (Lemma 5): decimals k and w > 0."""

    k: Fraction
    w: Fraction

    def holds(self) -> bool:
        """Inequality (6), for certain: the tangent at w^2 lies above psi_k."""
        return _tangent_is_above(self.k, self.w)

    def lower(self, y: int, v: Fraction) -> int:
        """LB(y) of (7), rounded down: what has probability y >= 0 at D has this at least at D'; v: of `moved`."""
        return (exact.exponential(self.k, up=False) * y >> exact.BITS) - self.offset(v)

    def offset(self, v: Fraction) -> int:
        """B of (7), rounded up."""
        density = Fraction(exact.density(self.k / self.w - self.w / 2, up=v >= self.w**2), ONE)
        return _psi(self.k, self.w, True) + exact.up(density * (v - self.w**2) / (2 * self.w))


@lru_cache(maxsize=1 << 12)  # many points have equal witnesses
def _tangent_is_above(k: Fraction, w: Fraction) -> bool:
    if w <= 0 or abs(k) > WIDEST or abs(k / w) + w / 2 > WIDEST or w**4 + 4 * w**2 < 4 * k**2:
        return False
    density = Fraction(exact.density(k / w - w / 2, up=True), ONE)
    spare = _psi(k, w, False) - exact.up(w * density / 2)
    return spare >= max(exact.exponential(k, up=True) - ONE, 0)


@lru_cache(maxsize=1 << 12)
def _psi(k: Fraction, w: Fraction, up: bool) -> int:
    """psi_k(w^2) = e^k Phi(k/w + w/2) - Phi(k/w - w/2), rounded up or down."""
    d1, d2 = k / w + w / 2, k / w - w / 2
    if up:
        product = exact.exponential(k, up=True) * exact.phi_up(exact.up(d1))
        return -(-product >> exact.BITS) - exact.phi_down(exact.down(d2))
    product = exact.exponential(k, up=False) * exact.phi_down(exact.down(d1))
    return (product >> exact.BITS) - exact.phi_up(exact.up(d2))


def word_of(share: str) -> int:
    """u of a share, a decimal in (0, 1): the largest number with u / 2^32 not above it. Raises UsageError."""
    word = int(exact_decimal("subsample", share) * WORD)
    if not 1 <= word < WORD:
        raise UsageError(
            f"subsample is the share of the images that a run takes, from 2^-32 and below 1, got {share}",
            "0.02 is a common choice; leave it out for all images",
        )
    return word


@lru_cache(maxsize=1 << 12)
def untouched(share: int, images: int) -> Fraction:
    """rho = (1 - share / 2^32)^images, rounded down: how likely a run takes none of so many images.

    The exact number has 32 bits an image. All that is claimed from rho is claimed from less with no more.
    """
    result, squared = ONE, (WORD - share) << exact.BITS - 32
    while images:
        if images & 1:
            result = result * squared >> exact.BITS
        squared = squared * squared >> exact.BITS
        images >>= 1
    return Fraction(result, ONE)


def share_for(share: int, edits: Edits) -> int | None:
    """p* of (2), rounded up: a claim is false only where p_A is not above it. None where it would prove nothing."""
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if 2 * here <= 1:
        return None
    p = exact.up(1 - there + there / (2 * here)) + 1  # at equality the classes tie
    return p if p < ONE else None


def leads(share: int, edits: Edits, pa_lower: Fraction, pb_upper: Fraction) -> bool:
    """Inequality (1): whether the winner stays what it is without what the attacker did."""
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    return here * (2 * there - 1 + pa_lower - pb_upper) > there


def share_for_radius(share: int, edits: Edits, tau: int, shift: Fraction, witness: Witness | None) -> int | None:
    """p* where the other images moved too, all together by less than shift sigma, shift > 0; as share_for.

    tau: in units of 2^-256, rounded up. Equation (5), or with a witness that holds (8). For the training images alone:
    where a test image may move too, there is no amplification.
    """
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if 2 * here <= 1 or (half := exact.up(1 / (2 * here)) + tau) >= ONE:
        return None
    if witness is None:
        inner = exact.phi_up(exact.up(shift) + exact.quantile_up(half))
    elif witness.holds():
        above = half + witness.offset(moved(share, shift))
        inner = -(-exact.exponential(-witness.k, up=True) * above >> exact.BITS)
    else:
        return None
    p = exact.up(1 - there + there * Fraction(tau + inner, ONE))
    return p if exact.HALF <= p < ONE else None


def leads_at_radius(
    share: int,
    edits: Edits,
    tau: int,
    shift: Fraction,
    witnesses: tuple[Witness, Witness] | None,
    pa_lower: Fraction,
    pb_upper: Fraction,
) -> bool:
    """The same from both bounds: inequality (4), or with two witnesses, of the winner and of the others, (8)."""
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if there == 0 or here == 0:
        return False
    ours = exact.down(1 - (1 - pa_lower) / there) - tau
    theirs = exact.down(1 - pb_upper / there) - tau  # of the votes that are not for the next class
    if ours <= 0 or theirs <= 0:
        return False
    if witnesses is None:
        kept = sum(exact.phi_down(_quantile_down(y) - exact.up(shift)) for y in (ours, theirs))
    elif all(witness.holds() for witness in witnesses):
        v = moved(share, shift)
        kept = witnesses[0].lower(ours, v) + witnesses[1].lower(theirs, v)
    else:
        return False
    return here * (kept - 2 * tau) > ONE


def moved(share: int, shift: Fraction) -> Fraction:
    """V: the squared movement of the images of a run, in sigmas, on average at most."""
    return Fraction(share, WORD) * shift**2


def _quantile_down(y: int) -> int:
    return exact.quantile_down(min(y, ONE - (1 << exact.BITS - 100)))


@dataclass(frozen=True)
class Images:
    """The most images of each kind, each by itself, that leave a point's class what it is; 0 for none."""

    inserted: int
    changed: int
    missing: int

    @classmethod
    def most(cls, holds: Callable[[Edits], bool], there: int) -> Images:
        """By what holds, where so many images are there: no more than these can have been inserted or changed.

        What holds for some holds for fewer (Lemma 2).
        """

        def largest_of(kind: Callable[[int], Edits], most: int) -> int:
            return largest(lambda images: images <= most and holds(kind(images)), guess=0, floor=0) or 0

        return cls(largest_of(Edits, there), largest_of(Edits.changed, there), largest_of(partial(Edits, 0), MOST))

    def edits(self) -> tuple[Edits, Edits, Edits]:
        """The three claims."""
        return Edits(self.inserted), Edits.changed(self.changed), Edits(0, self.missing)

    def as_json(self) -> dict[str, int]:
        return {
            "images_inserted": self.inserted,
            "images_changed": self.changed,
            "images_missing": self.missing,
        }
