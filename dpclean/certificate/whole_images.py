"""Certificates against whole images that an attacker inserted, changed or took away, from runs on random shares.

A run takes each image independently with probability q = share / 2^32. Whatever the attacker did to R + A images, a
run that takes none of them is as it would have been: docs/certificates.md, "Whole images", has the theorems. Integers
decide; nothing here is a float but the guesses that a search begins from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

from dpclean.certificate import interval_arithmetic as exact
from dpclean.certificate.amplification import Witness
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.decimals import exact_decimal
from dpclean.certificate.interval_arithmetic import ONE
from dpclean.errors import UsageError

WORD = 1 << 32  # shares are multiples of its inverse
MOST = WORD - 1  # images of a claim
MOST_NUMBERS = 20  # of changed images beside which a radius is claimed
NEAREST = 1 << exact.BITS - 100  # to 0 and 1, of what has a quantile


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


def word_of(share: str) -> int:
    """u of a share, a decimal in (0, 1): the largest number with u / 2^32 not above it. Raises UsageError."""
    word = int(exact_decimal("subsample", share) * WORD)
    if not 1 <= word < WORD:
        raise UsageError(
            f"subsample is the share of the images that a run takes, from 2^-32 and below 1, got {share}",
            "0.02 is a common choice; leave it out for all images",
        )
    return word


def numbers_of(text: str) -> list[int]:
    """Numbers of images, ascending, from a text such as 1,5,10. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    numbers = sorted({int(part) for part in parts if re.fullmatch(r"[0-9]{1,10}", part, re.ASCII)})
    if len(numbers) != len(parts) or not 1 <= numbers[0] <= numbers[-1] <= MOST or len(numbers) > MOST_NUMBERS:
        raise UsageError(
            f"numbers of images are up to {MOST_NUMBERS} different ones from 1, with commas between them, got {text!r}",
            "1,5,10 is a common choice",
        )
    return numbers


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


def members_of_run(share: int, images: int) -> tuple[float, float]:
    """How many of so many images a run takes: the mean and the standard deviation."""
    q = share / WORD
    return images * q, math.sqrt(images * q * (1 - q))


def share_for(share: int, edits: Edits) -> int | None:
    """p* of (2), rounded up: a claim is false only where p_A is not above it. None where it would prove nothing."""
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if 2 * here <= 1:
        return None
    p = exact.up(1 - there + there / (2 * here)) + 1  # at equality the classes tie
    return p if p < ONE else None


def leads(share: int, edits: Edits, pa_lower: Fraction, pb_upper: Fraction) -> bool:
    """Inequality (1): whether the winner stays what it is without what the attacker did."""
    there, here, gap = untouched(share, edits.inserted), untouched(share, edits.missing), pa_lower - pb_upper
    inner = (2 * there.numerator - there.denominator) * gap.denominator + gap.numerator * there.denominator
    # here (2 there - 1 + gap) > there, times all denominators: fractions are brought to lowest terms at every step
    return here.numerator * inner > there.numerator * here.denominator * gap.denominator


def share_for_radius(
    share: int, edits: Edits, tau: int, shift: Fraction, v: Fraction, witness: Witness | None
) -> int | None:
    """p* where the other images moved too, all together by less than shift sigma, shift > 0; as share_for.

    tau: in units of 2^-256, rounded up. Equation (11), or with a witness that holds (15); v: as of Witness.
    """
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if 2 * here <= 1 or (half := exact.up(1 / (2 * here)) + tau) > ONE - NEAREST:
        return None
    if witness is None:
        inner = exact.phi_up(exact.up(shift) + exact.quantile_up(half))
    elif witness.holds():
        inner = -(-exact.exponential(-witness.k, up=True) * (half + witness.offset(v)) >> exact.BITS)
    else:
        return None
    p = exact.up(1 - there + there * Fraction(tau + inner, ONE))
    return p if exact.HALF <= p < ONE else None


def leads_at_radius(
    share: int,
    edits: Edits,
    tau: int,
    shift: Fraction,
    v: Fraction,
    witnesses: Sequence[Witness],
    pa_lower: Fraction,
    pb_upper: Fraction,
) -> bool:
    """The same from both bounds: inequality (11), or with two witnesses, of the winner and of the others, (15)."""
    found = kept_shares(share, edits, tau, pa_lower, pb_upper)
    if found is None:
        return False
    shares, target = found
    if not witnesses:
        kept = sum(_moved_down(y, exact.up(shift)) for y in shares)
    elif all(witness.holds() for witness in witnesses):
        kept = sum(witness.lower(y, v) for witness, y in zip(witnesses, shares, strict=True))
    else:
        return False
    return kept > target


def kept_mean(
    share: int, edits: Edits, tau: int, mean_lower: Fraction, shift: Fraction, v: Fraction, proof: Sequence[Witness]
) -> Fraction:
    """What is left of the mean of values in [0, 1], each of one run, of which mean_lower is a lower bound: (16).

    shift, v: as above; where the shift is 0 nothing else moved. Rounded down, 0 where nothing is left for certain.
    """
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if there == 0:
        return Fraction(0)
    left = 1 - (1 - mean_lower) / there
    if shift > 0:
        y = exact.down(left) - tau
        if y <= 0 or not all(witness.holds() for witness in proof):
            return Fraction(0)
        kept = proof[0].lower(y, v) if proof else _moved_down(y, exact.up(shift))
        left = Fraction(kept - tau, ONE)
    return max(Fraction(0), here * left)


def kept_shares(
    share: int, edits: Edits, tau: int, pa_lower: Fraction, pb_upper: Fraction | None
) -> tuple[tuple[int, ...], int] | None:
    """(y of each side, what is to be kept of them together), in units of 2^-256; None where nothing can be.

    The sides are the runs that vote for the class and, where a bound looks at the next one, those that do not for it.
    """
    there, here = untouched(share, edits.inserted), untouched(share, edits.missing)
    if there == 0 or 2 * here <= 1:
        return None
    rest = [1 - pa_lower] if pb_upper is None else [1 - pa_lower, pb_upper]
    shares = tuple(exact.down(1 - other / there) - tau for other in rest)
    if min(shares) <= 0:
        return None
    return shares, exact.up(len(rest) / (2 * here)) + len(rest) * tau


def _moved_down(y: int, shift: int) -> int:
    """G(y) = Phi(Q(y) - shift), rounded down."""
    return 0 if y < NEAREST else exact.phi_down(exact.quantile_down(min(y, ONE - NEAREST)) - shift)


@dataclass(frozen=True)
class Images:
    """The most images of each kind, each by itself, that leave a point's class what it is; 0 for none."""

    inserted: int
    changed: int
    missing: int

    @classmethod
    def most(cls, holds: Callable[[Edits], bool], there: int, share: int, gap: float) -> Images:
        """By what holds, where so many images are there: no more than these can have been inserted or changed.

        What holds for some holds for fewer (Lemma 2). share, gap = p_A - p_B: where the search begins.
        """

        def largest_of(kind: Callable[[int], Edits], most: int, rho: float) -> int:
            guess = math.log(rho) / math.log1p(-share / WORD) if 0 < rho < 1 else 0
            return (
                largest(lambda images: images <= most and holds(kind(images)), guess=int(min(guess, most)), floor=0)
                or 0
            )

        return cls(
            largest_of(Edits, there, 1 - gap),
            largest_of(Edits.changed, there, 1 - gap / 2),
            largest_of(partial(Edits, 0), MOST, 1 / (1 + gap)),
        )

    def edits(self) -> tuple[Edits, Edits, Edits]:
        """The three claims."""
        return Edits(self.inserted), Edits.changed(self.changed), Edits(0, self.missing)

    def as_json(self) -> dict[str, int]:
        return {
            "images_inserted": self.inserted,
            "images_changed": self.changed,
            "images_missing": self.missing,
        }
