"""How many runs a radius takes, how long and how much disk, before any of it is spent.

What all runs agreeing would show is exact, but for tau, which is some 10^-15 and taken as 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from dpclean.certificate.attack_sizes import CIFAR_VALUES, attack_rows
from dpclean.certificate.bounds import DEFAULT_BOUND, find_bound
from dpclean.certificate.bounds.base import NO_RADIUS, Bound, ClaimSettings
from dpclean.certificate.bounds.search import MOST_RUNS, least
from dpclean.certificate.decimals import budget, exact_decimal
from dpclean.certificate.limits import level_of, unanimous
from dpclean.errors import UsageError
from dpclean.jobs.checks import check_ranges

LARGEST_SIGMA = 4  # of the noise that dpclean draws
SHOWN_RUNS = (10, 20, 100, 1000, 10000)


@dataclass(frozen=True)
class Answer:
    """Runs in all, with those that select; None where no number of runs does it."""

    family: str
    unanimous_runs: int | None  # that suffice when all agree
    runs: int | None  # that suffice with the power asked for, where a share of votes was given


@dataclass(frozen=True)
class Plan:
    """What a radius takes. seconds and bytes are for the number of runs of the family asked for, None if not known."""

    radius: str
    sigma: str
    radius_over_sigma: float
    budget: int
    alpha: str
    bound: str
    family: str
    points: int
    pa: str | None
    pb: str | None
    power: str
    answers: list[Answer]  # for one point, and for all points together where there are several
    why_impossible: str | None
    runs: int | None
    seconds: float | None
    bytes: int | None
    ceilings: list[dict[str, Any]]
    attack_sizes: list[dict[str, Any]]  # nothing is covered where no number of runs does it

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "plan", **asdict(self)}


def plan(
    radius: str,
    sigma: str,
    *,
    alpha: str = "0.001",
    bound: str = DEFAULT_BOUND,
    family: str = "point",
    points: int = 1,
    pa: str | None = None,
    pb: str | None = None,
    power: str = "0.9",
    seconds_per_run: float | None = None,
    workers: int = 1,
    image_bytes: int = 0,
    values: int = CIFAR_VALUES,
) -> Plan:
    """The runs that a radius on the [0, 1] pixel scale takes at a noise level sigma.

    pa, pb: the shares of runs that vote for the class and for the next one, pb 1 - pa unless given; power: how probable
    the radius is to be reached then. image_bytes: one copy of the training images, which every worker holds on disk.
    values: of one image, for the table of attacks. Decimals are strings. Raises UsageError.
    """
    reach, noise, rule = _reach(radius), _noise(sigma), find_bound(bound)
    level = level_of(family, alpha)
    check_ranges(points=points, workers=workers, seconds_per_run=seconds_per_run)
    check_ranges(image_bytes=image_bytes, image_values=values)
    shares, wanted = shares_of_votes(pa, pb, rule), share_of_votes("power", power)
    levels = {"point": level, "all": level / points} if points > 1 or family == "all" else {"point": level}
    answers = [_answer(rule, name, each, reach, noise, shares, wanted) for name, each in levels.items()]
    chosen = next(answer for answer in answers if answer.family == family)
    runs = chosen.runs if shares else chosen.unanimous_runs
    return Plan(
        radius=radius,
        sigma=sigma,
        radius_over_sigma=float(reach / noise),
        budget=budget(reach),
        alpha=alpha,
        bound=bound,
        family=family,
        points=points,
        pa=pa,
        pb=pb,
        power=power,
        answers=answers,
        why_impossible=_why_impossible(runs, reach / noise, shares),
        runs=runs,
        seconds=None if runs is None or seconds_per_run is None else runs * seconds_per_run / workers,
        bytes=None if runs is None else 4 * runs * points + workers * image_bytes,
        ceilings=[{"runs": n, "radius": _ceiling(rule, n, levels[family], noise)} for n in SHOWN_RUNS],
        attack_sizes=attack_rows(values, None, 0 if runs is None else budget(reach)),
    )


def _reach(radius: str) -> Fraction:
    reach = _positive("radius", radius)
    if budget(reach) == 0:
        raise UsageError(
            f"a radius of {radius} covers no change at all: one grey level of one value is a distance of 0.003922",
            "ask for a larger radius",
        )
    return reach


def _noise(sigma: str) -> Fraction:
    noise = _positive("sigma", sigma)
    if noise > LARGEST_SIGMA:
        raise UsageError(f"sigma must be at most {LARGEST_SIGMA}, got {sigma}", "0.25 is a common choice")
    return noise


def _positive(name: str, text: str) -> Fraction:
    value = exact_decimal(name, text)
    if value <= 0:
        raise UsageError(f"{name} must be above 0, got {text}", "it is a distance where pixels go from 0 to 1")
    return value


def share_of_votes(name: str, text: str) -> float:
    """A probability as a float. Raises UsageError."""
    value = exact_decimal(name, text)
    if not 0 < value < 1:
        raise UsageError(f"{name} is a probability between 0 and 1, got {text}", "give a number such as 0.9")
    return float(value)


def shares_of_votes(pa: str | None, pb: str | None, bound: Bound) -> tuple[float, float] | None:
    """(p_A, p_B), None where no share is expected."""
    if pa is None:
        if pb is not None:
            raise UsageError("--pb is the share of the next class, and that of the first is missing", "give --pa too")
        return None
    first = share_of_votes("pa", pa)
    second = 1 - first if pb is None else share_of_votes("pb", pb)
    if first + second > 1 + 1e-12 or second >= first:
        raise UsageError(f"shares of votes are pa > pb with a sum of at most 1, got {pa} and {pb}", "correct them")
    return bound.effective_shares((first, second))


def _why_impossible(runs: int | None, shift: Fraction, shares: tuple[float, float] | None) -> str | None:
    if runs is not None:
        return None
    if shares is None:
        return f"the radius is {float(shift):.3g} sigma, more than {MOST_RUNS} runs can show"
    from dpclean.certificate.sample_size import largest_shift

    most = largest_shift(*shares)
    if most <= shift:
        return f"with these shares of votes the true radius is {most:.3f} sigma, and no number of runs shows more"
    return f"it would take more than {MOST_RUNS} runs"


def _ceiling(bound: Bound, runs: int, level: Fraction, sigma: Fraction) -> str:
    return unanimous(bound, ClaimSettings(runs - bound.selection_runs(runs), level, sigma, Fraction(0)))


def _answer(
    bound: Bound,
    family: str,
    level: Fraction,
    radius: Fraction,
    sigma: Fraction,
    shares: tuple[float, float] | None,
    power: float,
) -> Answer:
    """The runs of one family; the float estimate only where shares are given."""
    counted = None
    if shares is not None:
        from dpclean.certificate.sample_size import largest_shift  # brings scipy along

        if largest_shift(*shares) > radius / sigma:
            counted = bound.runs_for(level, radius / sigma, shares, power)
    unanimous_runs = _unanimous_runs(bound, ClaimSettings(1, level, sigma, Fraction(0)), radius)
    return Answer(family, *(None if runs is None else bound.runs_in_all(runs) for runs in (unanimous_runs, counted)))


def _unanimous_runs(bound: Bound, settings: ClaimSettings, radius: Fraction) -> int | None:
    """The least number of counted runs that show the radius when all agree."""

    def enough(runs: int) -> bool:
        reached = unanimous(bound, replace(settings, runs=runs))
        return reached != NO_RADIUS and Fraction(reached) >= radius

    return least(enough, MOST_RUNS)
