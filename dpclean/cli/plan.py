"""`dpclean plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.certificate.bounds import BOUNDS, DEFAULT_BOUND
from dpclean.cli import values
from dpclean.cli.common import Config, Json, Quiet, tell
from dpclean.cli.panels import COST, STATEMENT, VOTES
from dpclean.cli.values import completing

if TYPE_CHECKING:
    from dpclean.certificate.plan import Plan


def plan(
    radius: Annotated[
        str, typer.Option(metavar="R", help="The radius that is wanted, pixels from 0 to 1.", rich_help_panel=STATEMENT)
    ],
    sigma: Annotated[
        str, typer.Option(metavar="S", help="Noise on the [0, 1] pixel scale.", rich_help_panel=STATEMENT)
    ],
    pa: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="Share of runs that will vote for the class; a pilot tells.", rich_help_panel=VOTES
        ),
    ] = None,
    pb: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="With --bound multiclass: share of the next class [1 - pa].", rich_help_panel=VOTES
        ),
    ] = None,
    power: Annotated[
        str, typer.Option(metavar="P", help="How probable the radius is to be reached then.", rich_help_panel=VOTES)
    ] = "0.9",
    bound: Annotated[
        str,
        typer.Option(
            metavar="|".join(BOUNDS),
            help="From votes to radius.",
            rich_help_panel=STATEMENT,
            autocompletion=completing(*BOUNDS),
        ),
    ] = DEFAULT_BOUND,
    alpha: Annotated[
        str, typer.Option(metavar="A", help="Probability that a claim may be false.", rich_help_panel=STATEMENT)
    ] = "0.001",
    family: Annotated[
        str,
        typer.Option(
            metavar="point|all",
            help="Alpha for each point, or for all.",
            rich_help_panel=STATEMENT,
            autocompletion=completing("point", "all"),
        ),
    ] = "point",
    points: Annotated[int, typer.Option(metavar="N", help="Test points to vote on.", rich_help_panel=STATEMENT)] = 1,
    seconds_per_run: Annotated[
        float | None,
        typer.Option(metavar="T", help="From 'dpclean certify --dry-run'; gives the time.", rich_help_panel=COST),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Runs at once.", rich_help_panel=COST)] = 1,
    image_bytes: Annotated[
        int,
        typer.Option(
            parser=values.size, metavar="N", help="Pixel values of all training images.", rich_help_panel=COST
        ),
    ] = "0",  # type: ignore[assignment]
    image_values: Annotated[
        int,
        typer.Option(metavar="N", help="Pixel values of one image, for the table of attacks.", rich_help_panel=COST),
    ] = 3072,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Tell how many runs, how much time and disk a radius takes, and what it is worth.

    \b
    dpclean plan --radius 0.25 --sigma 0.25
    dpclean plan --radius 0.25 --sigma 0.25 --pa 0.95 --pb 0.02 --points 1000 --family all
    dpclean plan --radius 0.25 --sigma 0.25 --seconds-per-run 12 --workers 2
    """
    from dpclean.certificate.plan import plan as look_ahead

    result = look_ahead(
        radius,
        sigma,
        alpha=alpha,
        bound=bound,
        family=family,
        points=points,
        pa=pa,
        pb=pb,
        power=power,
        seconds_per_run=seconds_per_run,
        workers=workers,
        image_bytes=image_bytes,
        values=image_values,
    )
    tell(result, _tell, json=json)


def _tell(plan: Plan) -> None:
    say = typer.echo
    say(
        f"A radius of {plan.radius} is {plan.radius_over_sigma:.3g} sigma: a budget of {plan.budget:,} squared grey"
        " levels over all training images together."
    )
    for answer in plan.answers:
        whom = f"all {plan.points} points together" if answer.family == "all" else "one point"
        say(f"For {whom}, with {plan.bound} at alpha {plan.alpha}:")
        say(f"  {_runs(answer.unanimous_runs)} if all of them agree")
        if plan.pa is not None:
            rest = f", {plan.pb} for the next class" if plan.pb else ", the rest for one other class"
            say(f"  {_runs(answer.runs)} if {plan.pa} of them vote for the class{rest}, with probability {plan.power}")
    if plan.why_impossible:
        say(f"Not possible: {plan.why_impossible}.")
    if plan.seconds is not None:
        say(f"Time: {_duration(plan.seconds)} for {plan.runs:,} runs.")
    if plan.bytes is not None:
        say(f"Disk: {plan.bytes / 1e6:,.1f} MB of votes and of copies of the training images.")
    say("The most that runs can show, even if all agree:")
    for row in plan.ceilings:
        say(f"  {row['runs']:>6,} runs: {row['radius'] if float(row['radius']) else 'nothing'}")
    if plan.runs is None:
        return
    say(f"What a radius of {plan.radius} covers:")
    for row in plan.attack_sizes:
        covered = "covered" if row["covered_by_largest"] else "NOT covered"
        say(f"  {row['change']}: distance {row['distance']}, {covered}")


def _runs(count: int | None) -> str:
    return "no number of runs" if count is None else f"{count:,} runs"


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"
