"""Which share of the images a run may take so that a number of them can be withstood, and how many runs that takes.

The condition of the certificate itself decides, with the confidence bounds of so many runs, and no approximation of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_DOWN, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.bounds.base import ClaimSettings, ShareBound
from dpclean.certificate.bounds.search import MOST_RUNS, largest, least
from dpclean.certificate.limits import level_of, most_images
from dpclean.certificate.plan import share_of_votes, shares_of_votes
from dpclean.certificate.whole_images import WORD, Edits, members_of_run, word_of
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_ranges

ATTACKS: Mapping[str, str] = {  # what was done to the images in hand
    "inserted": "put in",
    "changed": "changed or relabelled",
    "missing": "taken away",
}
PARTS = (1, 2, 4, 10)  # of the largest share: the shares that are shown
DIGITS = 4  # of a share that is proposed
LEAST_MEMBERS = 2  # of a run on average: with less than two images it trains nothing


@dataclass(frozen=True)
class ShareRow:
    """A share, and how many images a run takes: on average, with that standard deviation.

    votes: the least of the runs that must agree on a point where all others choose one other class; None: not even all.
    """

    share: str
    members: float
    spread: float
    votes: int | None


@dataclass(frozen=True)
class ImagesPlan:
    """What withstanding some images takes. Shares are decimals; numbers are None where no share does it.

    counted: of the runs, those that do not select. asked: for the share that was asked for, else the largest that holds
    with the votes expected. least_runs: that suffice at that share, all agreeing or, where a share of votes was given,
    with the power asked for. reach: of images of each kind, what `runs` runs at that share show where all agree.
    shares: the largest one and smaller ones, which leave room for points where fewer agree. parts: the fewest that
    withstand as much where all of them agree.
    """

    images: int
    of: int
    attack: str
    alpha: str
    bound: str
    family: str
    points: int
    runs: int
    counted: int
    pa: str | None
    pb: str | None
    power: str
    asked: ShareRow | None
    least_runs: int | None
    reach: dict[str, int] | None
    shares: list[ShareRow]
    why_impossible: str | None
    seconds: float | None
    bytes: int
    parts: int

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "plan", **asdict(self)}


@dataclass(frozen=True)
class _Question:
    """A bound with its level; shares: of the votes, None where all agree."""

    bound: ShareBound
    level: Fraction
    of: int
    edits: Edits
    shares: tuple[float, float] | None
    power: float
    one_rival: bool

    def settings(self, runs: int, share: int) -> ClaimSettings:
        counted = runs - self.bound.selection_runs(runs)
        return ClaimSettings(counted, self.level, Fraction(0), Fraction(0), share, self.of)

    def holds(self, share: int, runs: int, k_a: int, k_b: int) -> bool:
        """Whether the images are withstood at a share of share / 2^32 with these counts of the counted runs."""
        settings = self.settings(runs, share)
        low, high = _bounds(self.bound, self.settings(runs, 1), k_a, k_b)
        return low is not None and self.bound.edits_hold(settings, k_a, share, self.edits, low, high)

    def holds_as_expected(self, share: int, runs: int) -> bool:
        counted = self.settings(runs, share).runs
        if counted < 1:
            return False
        return self.holds(share, runs, *self._counts(counted))

    def _counts(self, runs: int) -> tuple[int, int]:
        """(k_A, k_B) that are reached with the power: at least k_A, and where it is looked at no more than k_B."""
        if self.shares is None:
            return runs, 0
        from dpclean.certificate.sample_size import tail

        pa, pb = self.shares
        missed = (1 - self.power) / (1 if self.one_rival else 2)
        k_a = largest(lambda k: k <= runs and tail(k, runs, pa) >= 1 - missed, int(pa * runs), floor=0) or 0
        if self.one_rival:
            return k_a, runs - k_a
        below = largest(lambda k: k <= runs and tail(k, runs, pb) > missed, int(pb * runs), floor=0) or 0
        return k_a, min(below, runs - k_a)

    def largest_share(self, runs: int) -> int | None:
        guess = WORD // (4 * max(self.edits.inserted, self.edits.missing))
        return largest(lambda share: share < WORD and self.holds_as_expected(share, runs), max(1, guess), floor=1)

    def least_votes(self, share: int, runs: int) -> int | None:
        counted = self.settings(runs, share).runs
        return least(lambda k: self.holds(share, runs, k, counted - k), counted)

    def least_runs(self, share: int) -> int | None:
        return least(lambda runs: self.holds_as_expected(share, runs), MOST_RUNS)


@lru_cache(maxsize=1 << 12)  # neither bound looks at the share
def _bounds(bound: ShareBound, settings: ClaimSettings, k_a: int, k_b: int) -> tuple[Fraction | None, Fraction | None]:
    """The confidence bounds of p_A and p_B; None, None where the counts do not single the class out."""
    low = bound.pa_lower(settings, k_a) if bound.selects(settings, k_a, k_b) else None
    return low, None if low is None else bound.pb_upper(settings, k_b, low)


def plan_images(
    images: int,
    of: int,
    *,
    attack: str = "changed",
    subsample: str | None = None,
    runs: int = 1000,
    alpha: str = "0.001",
    bound: str = DEFAULT_BOUND,
    family: str = "point",
    points: int = 1,
    pa: str | None = None,
    pb: str | None = None,
    power: str = "0.9",
    seconds_per_run: float | None = None,
    workers: int = 1,
) -> ImagesPlan:
    """The share of `of` images that a run may take where so many were inserted, changed, or are missing.

    subsample: a share to look at instead of the largest one. pa, pb: the shares of runs that vote for the class and for
    the next one, else all agree; power: how probable it is to be reached then. Decimals are strings. Raises UsageError.
    """
    rule, level = find_bound(bound), level_of(family, alpha)
    assert isinstance(rule, ShareBound)
    _check(images, of, attack, runs)
    check_ranges(points=points, workers=workers, seconds_per_run=seconds_per_run)
    shares = shares_of_votes(pa, pb, rule)
    question = _Question(
        rule,
        level / points if family == "all" else level,
        of,
        {"inserted": Edits(images), "changed": Edits.changed(images), "missing": Edits(0, images)}[attack],
        shares,
        share_of_votes("power", power),
        shares is not None and sum(shares) > 1 - 1e-12,
    )
    _check_runs(question, runs)
    highest = question.largest_share(runs)
    rows = [] if highest is None else [_row(question, highest // part, runs) for part in PARTS]
    rows = [row for row in rows if row.members >= LEAST_MEMBERS]
    asked = rows[0] if rows else None
    if subsample is not None:
        asked = _row(question, word_of(subsample), runs, subsample)
    word = None if asked is None else word_of(asked.share)
    return ImagesPlan(
        images=images,
        of=of,
        attack=attack,
        alpha=alpha,
        bound=bound,
        family=family,
        points=points,
        runs=runs,
        counted=question.settings(runs, 1).runs,
        pa=pa,
        pb=pb,
        power=power,
        asked=asked,
        least_runs=None if word is None else question.least_runs(word),
        reach=None if word is None else most_images(rule, question.settings(runs, word)).as_json(),
        shares=rows,
        why_impossible=_why_impossible(question, highest, word, runs),
        seconds=None if seconds_per_run is None else runs * seconds_per_run / workers,
        bytes=4 * runs * points,
        parts=2 * images * (2 if attack == "changed" else 1) + 1,
    )


def _row(question: _Question, word: int, runs: int, share: str | None = None) -> ShareRow:
    """Of a share of word / 2^32, which is shortened to a few digits where it was not asked for as it is."""
    if share is None:
        with localcontext(prec=DIGITS, rounding=ROUND_DOWN):
            share = format(Decimal(word) / Decimal(WORD), "f")
    members, spread = members_of_run(word, question.of)
    return ShareRow(share, round(members, 1), round(spread, 1), question.least_votes(word, runs))


def _check(images: int, of: int, attack: str, runs: int) -> None:
    check_ranges(images=images, of=of, runs=runs)
    if attack not in ATTACKS:
        raise UsageError(f"attack {attack!r} is not known", f"give one of: {', '.join(ATTACKS)}")
    if images > of and attack != "missing":
        raise UsageError(f"{images} of {of} images cannot have been {ATTACKS[attack]}", "give no more than there are")


def _check_runs(question: _Question, runs: int) -> None:
    """Refuse fewer runs than any claim takes, with any share."""
    alone = replace(question, shares=None)
    if not alone.holds_as_expected(1, runs):
        fewest = alone.least_runs(1)
        raise UsageError(
            f"{runs} runs cannot certify anything with {question.bound.name} at this alpha, even if all agree",
            f"give at least {fewest} runs",
        )


def _why_impossible(question: _Question, highest: int | None, word: int | None, runs: int) -> str | None:
    if highest is None:
        return f"with these shares of votes {runs:,} runs do not even tell which class is the first, whatever they take"
    if (members := members_of_run(highest, question.of)[0]) < LEAST_MEMBERS:
        return (
            f"it would take so small a share that a run has {members:.2g} images on average, and cannot train on them"
        )
    if word is not None and word > highest:
        return f"the largest share that withstands so many with {runs:,} runs is {highest / WORD:.4g}"
    return None
