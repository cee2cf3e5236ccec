"""What every bound is: from the counts of a point to a claim, as large as the check of the claim lets it be.

Every number that is published is found by search and confirmed by the check: lower bounds and radii are the largest
multiple of their last decimal that passes, upper bounds the smallest. docs/certificates.md, sections "Bounds" and
"The check".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from statistics import NormalDist
from typing import Any, ClassVar

from dpclean.certificate import whole_images
from dpclean.certificate.amplification import Witness, plain_shift, propose, reach
from dpclean.certificate.bounds.search import largest
from dpclean.certificate.decimals import budget, text
from dpclean.certificate.interval_arithmetic import HALF, ONE, down, phi_up, quantile_down, quantile_up, up
from dpclean.certificate.threats import THREATS
from dpclean.certificate.whole_images import WORD, Edits, Images
from dpclean.errors import UsageError

SHARE_UNIT = 10**18  # confidence bounds have 18 decimals
RADIUS_UNIT = 10**6  # radii have 6
NO_RADIUS = "0.000000"


@dataclass(frozen=True)
class ClaimSettings:
    """What a claim about one point is tested against.

    runs: those that are counted, without a selection. level: alpha, or alpha/P for the family `all`. sigma: on the
    [0, 1] scale, 0 without noise. tau: total variation of all noise of a run, below 1/4. share: where each image is in
    a run with probability share / 2^32 only, of `images` that there are; with_images: beside how many changed ones a
    radius is claimed too. noises_points: whether a test image, which is in every run, may move too.
    """

    runs: int
    level: Fraction
    sigma: Fraction
    tau: Fraction
    share: int | None = None
    images: int = 0
    with_images: tuple[int, ...] = ()
    noises_points: bool = False

    @property
    def moving(self) -> Fraction:
        """In how large a part of the runs what moves is."""
        return Fraction(1) if self.share is None or self.noises_points else Fraction(self.share, WORD)

    @cached_property
    def level_down(self) -> int:
        return down(self.level)

    @cached_property
    def tau_up(self) -> int:
        return up(self.tau)


Proof = tuple[Witness, ...]  # of a radius: one for each side that is tested; none for a radius that is not amplified


@dataclass(frozen=True)
class Moved:
    """The radius beside so many changed images: in the units of sigma, a multiple of 10^-6, rounded down; 0 for none.

    No data set is nearer whose class is another one.
    """

    radius: Fraction
    proof: Proof = ()

    def as_json(self) -> dict[str, Any]:
        return {"certified_radius": text(self.radius, 6), "budget": budget(self.radius)}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Moved:
        return cls(Fraction(found["certified_radius"]), proof_of(found.get("witness")))


def proof_as_json(proof: Proof) -> list[list[str]] | None:
    """A list of [k, w], None where there is nothing to prove."""
    return [witness.as_json() for witness in proof] or None


def proof_of(found: Any) -> Proof:
    """What proof_as_json made; empty for anything else, whoever wrote it."""
    witnesses = [Witness.of_json(entry) for entry in found] if isinstance(found, list) and len(found) <= 2 else []
    return tuple(witness for witness in witnesses if witness) if all(witnesses) else ()


@dataclass(frozen=True)
class Claim:
    """What the counts of one point prove; pb_upper is there for bounds that look at the next class.

    The confidence bounds are multiples of 10^-18, rounded outward. whole: images, where runs take a share of them;
    moved: the radius, with none of them changed. beside: by a number of changed images the radius beside them.
    """

    pa_lower: Fraction
    pb_upper: Fraction | None
    moved: Moved
    whole: Images | None = None
    beside: Mapping[int, Moved] = field(default_factory=dict)

    @property
    def radius(self) -> Fraction:
        return self.moved.radius

    @property
    def covers_anything(self) -> bool:
        """Whether it is worth publishing: a radius that covers no grey level is no claim."""
        return budget(self.radius) > 0 or (self.whole is not None and any(self.whole.as_json().values()))

    def as_json(self, settings: ClaimSettings) -> dict[str, Any]:
        """The fields of a point that has this claim."""
        return {
            "pa_lower": text(self.pa_lower, 18),
            "pb_upper": None if self.pb_upper is None else text(self.pb_upper, 18),
            **_as_json(settings, self.moved, self.whole or NO_IMAGES, self.beside),
        }

    @classmethod
    def of_point(cls, point: Mapping[str, Any]) -> Claim:
        """The claim that a point's fields spell."""
        high = point["pb_upper"]
        return cls(
            Fraction(point["pa_lower"]),
            None if high is None else Fraction(high),
            Moved.of_json(point),
            Images(*(point[name] for name in NO_IMAGES.as_json())) if "images_changed" in point else None,
            {row["images"]: Moved.of_json(row) for row in point.get(BESIDE, ())},
        )


NO_IMAGES = Images(0, 0, 0)
BESIDE = "with_images"  # of a point: the radius beside so many changed images


def _as_json(settings: ClaimSettings, moved: Moved, whole: Images, beside: Mapping[int, Moved]) -> dict[str, Any]:
    made: dict[str, Any] = moved.as_json()
    if settings.share is None:
        return made
    made |= whole.as_json()
    if settings.sigma > 0:
        made["witness"] = proof_as_json(moved.proof)
    if settings.with_images:
        made[BESIDE] = [
            {"images": images, **radius.as_json(), "witness": proof_as_json(radius.proof)}
            for images, radius in beside.items()
        ]
    return made


def no_claim(settings: ClaimSettings) -> dict[str, Any]:
    """The fields of a point that abstains."""
    nothing = Moved(Fraction(0))
    beside = dict.fromkeys(settings.with_images, nothing)
    return {"pa_lower": None, "pb_upper": None, **_as_json(settings, nothing, NO_IMAGES, beside)}


class Bound(ABC):
    """A rule that makes a claim of counted votes.

    sentence: what it does, for somebody who has never heard of it. threats: the models that its claims hold under.
    open_ended: whether its claims hold at every number of runs at once, so that runs may be added later.
    """

    name: ClassVar[str]
    sentence: ClassVar[str]
    threats: ClassVar[tuple[str, ...]] = tuple(THREATS)
    open_ended: ClassVar[bool] = False

    @abstractmethod
    def claim(
        self, settings: ClaimSettings, k_a: int, k_b: int, published: Sequence[Proof] | None = None
    ) -> Claim | None:
        """The claim for the class with k_a votes of settings.runs, None to abstain; k_b: most votes for another.

        published: proofs of the radius, and of the one beside each of settings.with_images, None to search for them.
        """

    @abstractmethod
    def holds(self, settings: ClaimSettings, k_a: int, k_b: int, claim: Claim) -> bool:
        """Whether a claim with its confidence bounds follows from the counts: the check, without any search."""

    @abstractmethod
    def withstands(
        self, settings: ClaimSettings, k_a: int, low: Fraction, high: Fraction | None, edits: Edits, radius: Fraction
    ) -> bool:
        """Whether the class stays what it is after edits, with all other images moved by less than radius together.

        low, high: the confidence bounds of its claim. What proves it is searched for, and decided by the check.
        """

    @abstractmethod
    def runs_for(self, level: Fraction, shift: Fraction, shares: tuple[float, float], power: float) -> int | None:
        """The least number of counted runs that reach radius = shift sigma with that probability, an estimate.

        shares: of the runs that vote for the class and for the next one. None where no number of runs does.
        """

    def effective_shares(self, shares: tuple[float, float]) -> tuple[float, float]:
        """The shares that decide, of those given."""
        return shares

    def selection_runs(self, runs: int) -> int:
        """How many of the runs select the class by default, and are not counted."""
        return 0

    def check_selection(self, runs: int, selection: int) -> None:
        """Raises UsageError where so many runs may not select."""
        if selection:
            raise UsageError(f"{self.name} selects from all runs, got {selection} for selection", "leave them out")

    def runs_in_all(self, counted: int) -> int:
        """The runs in all of which so many are counted."""
        return counted

    def runs_statement(self, runs: int) -> str:
        """What the claims rest on as to the number of runs."""
        return (
            f"The number of runs, {runs}, and everything else that is listed under the terms were fixed before the"
            " first run, and all runs are counted, failed ones too."
        )


class ShareBound(Bound):
    """A bound that tests how likely p_A, the share of the class in all runs there could be, is claimed too large."""

    least_share: ClassVar[int] = 0  # below which there is no lower bound, in units of 10^-18

    @abstractmethod
    def error_up(self, settings: ClaimSettings, k_a: int, p: int) -> int:
        """How likely `p_A >= p` is claimed wrongly from k_a votes, rounded up; p in units of 2^-256.

        The claim holds where this is at most the level.
        """

    @abstractmethod
    def error(self, k: int, n: int, p: float, level: float) -> float:
        """The same in floats, for plans."""

    def selects(self, settings: ClaimSettings, k_a: int, k_b: int) -> bool:
        """Whether the counts single the class out."""
        return k_a > k_b

    def claim(
        self, settings: ClaimSettings, k_a: int, k_b: int, published: Sequence[Proof] | None = None
    ) -> Claim | None:
        if not self.selects(settings, k_a, k_b):
            return None
        low = self.pa_lower(settings, k_a)
        if low is None:
            return None
        high = self.pb_upper(settings, k_b, low)
        share = settings.share
        if share is None:
            radius = self._plain_radius(settings, k_a, low, high)
            return None if radius == 0 else Claim(low, high, Moved(radius))
        whole = Images.most(
            lambda edits: self.edits_hold(settings, k_a, share, edits, low, high),
            settings.images,
            share,
            gap=float(low - (1 - low if high is None else high)),
        )
        if settings.sigma == 0:
            return Claim(low, high, Moved(Fraction(0)), whole)
        changed = (0, *settings.with_images)
        proofs = [None] * len(changed) if published is None else published
        moved, *beside = (
            self.radius_beside(settings, k_a, low, high, Edits.changed(images), proof)
            for images, proof in zip(changed, proofs, strict=True)
        )
        return Claim(low, high, moved, whole, dict(zip(settings.with_images, beside, strict=True)))

    def _plain_radius(self, settings: ClaimSettings, k_a: int, low: Fraction, high: Fraction | None) -> Fraction:
        """The largest radius of 6 decimals that is not amplified, with no image changed; 0 for none."""
        if settings.sigma == 0 or (shift := self.shift(settings, low, high)) <= 0:
            return Fraction(0)
        guess = Fraction(shift, ONE) * settings.sigma
        return _largest_radius(lambda radius: self.radius_holds(settings, k_a, radius, low, high), guess)

    def radius_beside(
        self, settings: ClaimSettings, k_a: int, low: Fraction, high: Fraction | None, edits: Edits,
        published: Proof | None = None,
    ) -> Moved:  # fmt: skip
        """The largest radius beside edits, plain or amplified, whichever is larger; for a share, and sigma above 0."""
        share = settings.share
        assert share is not None
        found = whole_images.kept_shares(share, edits, settings.tau_up, low, high)
        if found is None:
            return Moved(Fraction(0))
        shares, target = [y / ONE for y in found[0]], found[1] / ONE

        def largest_by(proof: Proof, guess: float) -> Fraction:
            return _largest_radius(
                lambda radius: self.moved_holds(settings, k_a, edits, Moved(radius, proof), low, high), Fraction(guess)
            )

        if edits == Edits():
            plain = self._plain_radius(settings, k_a, low, high)
        else:
            plain = largest_by((), plain_shift(shares, target) * float(settings.sigma))
        if settings.moving == 1:
            return Moved(plain)
        proof, v = propose(shares, target) if published is None else (published, reach(published, shares, target))
        if len(proof) != len(shares):
            return Moved(plain)
        amplified = largest_by(proof, float(settings.sigma) * math.sqrt(v / settings.moving))
        return Moved(plain) if amplified <= plain else Moved(amplified, proof)

    def holds(self, settings: ClaimSettings, k_a: int, k_b: int, claim: Claim) -> bool:
        return (
            self.selects(settings, k_a, k_b)
            and self.upper_holds(settings, k_b, claim)
            and self.lower_holds(settings, k_a, claim.pa_lower)
            and (claim.whole is None) == (settings.share is None)
            and (claim.whole is not None or claim.radius > 0)
            and self._images_hold(settings, k_a, claim)
            and tuple(claim.beside) == settings.with_images
            and all(
                moved.radius == 0
                or self.moved_holds(settings, k_a, Edits.changed(images), moved, claim.pa_lower, claim.pb_upper)
                for images, moved in ((0, claim.moved), *claim.beside.items())
            )
        )

    def _images_hold(self, settings: ClaimSettings, k_a: int, claim: Claim) -> bool:
        """Whether each number of images above 0 follows."""
        share, low, high = settings.share, claim.pa_lower, claim.pb_upper
        if claim.whole is None or share is None:
            return True
        return all(
            edits == Edits()
            or (self.edits_hold(settings, k_a, share, edits, low, high) and edits.inserted <= settings.images)
            for edits in claim.whole.edits()
        )

    def withstands(
        self, settings: ClaimSettings, k_a: int, low: Fraction, high: Fraction | None, edits: Edits, radius: Fraction
    ) -> bool:
        share = settings.share
        if edits.inserted > settings.images if share is not None else edits != Edits():
            return False
        if radius == 0:
            return share is None or edits == Edits() or self.edits_hold(settings, k_a, share, edits, low, high)
        if settings.sigma == 0:
            return False
        if self.moved_holds(settings, k_a, edits, Moved(radius), low, high):
            return True
        proof = self._proposal(settings, low, high, edits)
        return bool(proof) and self.moved_holds(settings, k_a, edits, Moved(radius, proof), low, high)

    def _proposal(self, settings: ClaimSettings, low: Fraction, high: Fraction | None, edits: Edits) -> Proof:
        """What proves about the largest amplified radius beside edits; empty where there is none."""
        share = settings.share
        found = None if share is None else whole_images.kept_shares(share, edits, settings.tau_up, low, high)
        if found is None or settings.moving == 1:
            return ()
        return propose([y / ONE for y in found[0]], found[1] / ONE)[0]

    # ---- confidence bounds

    def pa_lower(self, settings: ClaimSettings, k_a: int) -> Fraction | None:
        """Lower confidence bound of p_A, rounded down to 18 decimals; None where there is none."""
        return _pa_lower(self, settings, k_a)

    def pb_upper(self, settings: ClaimSettings, k_b: int, pa_lower: Fraction) -> Fraction | None:
        """Upper confidence bound of p_B where the bound looks at it."""
        return None

    def lower_holds(self, settings: ClaimSettings, k_a: int, pa_lower: Fraction) -> bool:
        """Whether pa_lower is a lower bound of p_A at the level."""
        return _lower_holds(self, settings, k_a, pa_lower)

    def upper_holds(self, settings: ClaimSettings, k_b: int, claim: Claim) -> bool:
        """Whether the claim's pb_upper is an upper bound of p_B, where it has to be there."""
        return claim.pb_upper is None

    # ---- radius

    def radius_holds(
        self, settings: ClaimSettings, k_a: int, radius: Fraction, pa_lower: Fraction, pb_upper: Fraction | None
    ) -> bool:
        """Whether every data set nearer than radius > 0 has the class of the k_a votes, tested at p(r) itself."""
        return self.error_up(settings, k_a, share_for(settings, radius)) <= settings.level_down

    def edits_hold(
        self, settings: ClaimSettings, k_a: int, share: int, edits: Edits, low: Fraction, high: Fraction | None
    ) -> bool:
        """Whether the class of the k_a votes stays what it is without what an attacker did to whole images."""
        p = whole_images.share_for(share, edits)
        return p is not None and self.error_up(settings, k_a, p) <= settings.level_down

    def moved_holds(
        self, settings: ClaimSettings, k_a: int, edits: Edits, moved: Moved, low: Fraction, high: Fraction | None
    ) -> bool:
        """The same where the other images moved too, all together by less than moved.radius > 0: by its proof."""
        if edits == Edits() and not moved.proof:
            return self.radius_holds(settings, k_a, moved.radius, low, high)
        if settings.share is None or edits.inserted > settings.images or moved.radius <= 0:
            return False
        shift = moved.radius / settings.sigma
        v = settings.moving * shift**2
        return self.radius_holds_beside(settings, k_a, settings.share, edits, shift, v, moved.proof, low, high)

    def radius_holds_beside(
        self, settings: ClaimSettings, k_a: int, share: int, edits: Edits, shift: Fraction, v: Fraction, proof: Proof,
        low: Fraction, high: Fraction | None,
    ) -> bool:  # fmt: skip
        """The same for a radius of so many sigmas; v: as of Witness."""
        if len(proof) > 1:
            return False
        p = whole_images.share_for_radius(share, edits, settings.tau_up, shift, v, proof[0] if proof else None)
        return p is not None and self.error_up(settings, k_a, p) <= settings.level_down

    def shift(self, settings: ClaimSettings, low: Fraction, high: Fraction | None) -> int:
        """radius / sigma that the confidence bounds allow, rounded down; negative or 0 where they allow none."""
        y, x = settings.tau_up + HALF, down(low) - settings.tau_up
        return 0 if x <= y else quantile_down(x) - quantile_up(y)

    # ---- plans

    def runs_for(self, level: Fraction, shift: Fraction, shares: tuple[float, float], power: float) -> int | None:
        from dpclean.certificate.sample_size import by_count

        p = phi_up(up(shift)) / ONE
        return by_count(lambda k, n: self.error(k, n, p, float(level)) <= level, shares[0], power)

    def effective_shares(self, shares: tuple[float, float]) -> tuple[float, float]:
        return shares[0], 1 - shares[0]  # who gets the rest is not looked at


def _largest_radius(holds: Callable[[Fraction], bool], guess: Fraction) -> Fraction:
    """The largest radius of 6 decimals that holds, 0 for none; what holds at a radius holds at smaller ones."""
    units = largest(lambda units: holds(Fraction(units, RADIUS_UNIT)), int(guess * RADIUS_UNIT), floor=1)
    return Fraction(units or 0, RADIUS_UNIT)


@lru_cache(maxsize=1 << 14)  # many points have equal counts
def _pa_lower(bound: ShareBound, settings: ClaimSettings, k_a: int) -> Fraction | None:
    return share_lower(
        lambda p: bound.error_up(settings, k_a, p), settings.level_down, k_a, settings.runs, bound.least_share
    )


@lru_cache(maxsize=1 << 14)
def _lower_holds(bound: ShareBound, settings: ClaimSettings, k_a: int, pa_lower: Fraction) -> bool:
    return bound.error_up(settings, k_a, up(pa_lower)) <= settings.level_down


def share_lower(error_up: Callable[[int], int], level: int, k: int, runs: int, floor: int = 0) -> Fraction | None:
    """The largest share of 18 decimals whose error is at most the level, None if that of the floor is not.

    error_up: how likely so many of the runs, or more, are of that share, in units of 2^-256 as the level is.
    """

    @cache  # the search begins where the guess was tried last
    def error(units: int) -> int:
        return error_up(up(Fraction(units, SHARE_UNIT)))

    units = largest(lambda units: error(units) <= level, _near_level(error, level, k, runs), floor)
    return None if units is None else Fraction(units, SHARE_UNIT)


def share_for(settings: ClaimSettings, radius: Fraction) -> int:
    """p(r) = Phi(r/sigma + Q(1/2 + tau)) + tau, rounded up: a claim of radius r is false only where p_A is less.

    docs/certificates.md, equation (1).
    """
    if settings.tau_up >= HALF:
        return ONE
    x = up(radius / settings.sigma) + quantile_up(HALF + settings.tau_up)
    return phi_up(x) + settings.tau_up


def _near_level(error: Callable[[int], int], level: int, k: int, runs: int) -> int:
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
