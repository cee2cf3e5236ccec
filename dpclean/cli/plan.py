"""`dpclean plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from dpclean.certificate.bounds import BOUNDS, DEFAULT_BOUND
from dpclean.cli import values
from dpclean.cli.common import Config, Json, Quiet, tell
from dpclean.cli.panels import COST, STATEMENT, VOTES, WHOLE
from dpclean.cli.values import completing
from dpclean.errors import UsageError

if TYPE_CHECKING:
    from dpclean.certificate.plan import Plan
    from dpclean.certificate.plan_images import ImagesPlan, ShareRow

OF_RADIUS = ("radius", "sigma", "image_bytes", "image_values")
OF_IMAGES = ("attack", "subsample", "runs")


class _Common(TypedDict):
    """What both plans take."""

    alpha: str
    bound: str
    family: str
    points: int
    pa: str | None
    pb: str | None
    power: str
    seconds_per_run: float | None
    workers: int


def plan(
    context: typer.Context,
    radius: Annotated[
        str | None,
        typer.Option(metavar="R", help="The radius that is wanted, pixels from 0 to 1.", rich_help_panel=STATEMENT),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(metavar="S", help="With --radius: noise on the [0, 1] pixel scale.", rich_help_panel=STATEMENT),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(metavar="M", help="Whole images that are to be withstood.", rich_help_panel=WHOLE),
    ] = None,
    of: Annotated[
        int | None, typer.Option(metavar="N", help="With --images: how many there are.", rich_help_panel=WHOLE)
    ] = None,
    attack: Annotated[
        str,
        typer.Option(
            metavar="inserted|changed|missing",
            help="With --images: what was done to them.",
            rich_help_panel=WHOLE,
            autocompletion=completing("inserted", "changed", "missing"),
        ),
    ] = "changed",
    subsample: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="With --images: this share, not the largest.", rich_help_panel=WHOLE),
    ] = None,
    runs: Annotated[
        int, typer.Option(metavar="N", help="With --images: models to train.", rich_help_panel=WHOLE)
    ] = 1000,
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
    """Tell how many runs, how much time and disk a radius takes, or some whole images, and what it is worth.

    \b
    dpclean plan --radius 0.25 --sigma 0.25
    dpclean plan --radius 0.25 --sigma 0.25 --pa 0.95 --pb 0.02 --points 1000 --family all
    dpclean plan --radius 0.25 --sigma 0.25 --seconds-per-run 12 --workers 2
    dpclean plan --images 25 --of 5000
    dpclean plan --images 100 --of 5000 --attack inserted --subsample 0.005 --pa 0.9 --pb 0.05
    """
    common: _Common = {
        "alpha": alpha,
        "bound": bound,
        "family": family,
        "points": points,
        "pa": pa,
        "pb": pb,
        "power": power,
        "seconds_per_run": seconds_per_run,
        "workers": workers,
    }
    if images is not None or of is not None:
        from dpclean.certificate.plan_images import plan_images

        _refuse(context, OF_RADIUS, "has no meaning with --images")
        if images is None or of is None:
            raise UsageError("--images and --of belong together: so many of so many", "give both")
        tell(plan_images(images, of, attack=attack, subsample=subsample, runs=runs, **common), _tell_images, json=json)
        return
    from dpclean.certificate.plan import plan as look_ahead

    _refuse(context, OF_IMAGES, "has a meaning with --images only")
    if radius is None or sigma is None:
        raise UsageError(
            "a plan is for a radius or for whole images, and neither is given whole",
            "give --radius and --sigma, or --images and --of",
        )
    result = look_ahead(radius, sigma, image_bytes=image_bytes, values=image_values, **common)
    tell(result, _tell, json=json)


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} {why}", "leave it out")


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


def _tell_images(plan: ImagesPlan) -> None:
    from dpclean.certificate.plan_images import ATTACKS

    say, done = typer.echo, ATTACKS[plan.attack]
    whom = f"all {plan.points} points together" if plan.family == "all" else "one point"
    say(
        f"To withstand that any {plan.images:,} of {plan.of:,} images were {done}, for {whom}, with {plan.bound} at"
        f" alpha {plan.alpha} and {plan.runs:,} runs:"
    )
    if plan.shares:
        agree = "all agree" if plan.pa is None else f"{plan.pa} of them vote for the class"
        say(f"  --subsample {plan.shares[0].share} is the largest share that does if {agree}")
        say("  share of the images in a run    images in a run    runs that must agree on a point")
        for row in plan.shares:
            say(f"  {_share_row(row, plan.counted)}")
    if plan.asked is not None and (not plan.shares or plan.asked != plan.shares[0]):
        say(f"  {_share_row(plan.asked, plan.counted)}: the share that was asked for")
    if plan.why_impossible:
        say(f"Not possible: {plan.why_impossible}.")
    if plan.asked is not None and plan.reach is not None:
        reach = ", ".join(f"{plan.reach[f'images_{kind}']:,} {what}" for kind, what in ATTACKS.items())
        say(f"With the share {plan.asked.share} {plan.runs:,} runs show at most, each by itself: {reach}.")
        say(f"With that share it takes {_runs(plan.least_runs)} at least.")
    if plan.seconds is not None:
        say(f"Time: {_duration(plan.seconds)} for {plan.runs:,} runs.")
    each = plan.of // plan.parts
    say(
        f"With --partitions instead: {plan.parts:,} parts at least, even if all agree, with "
        + (f"{each:,} images each; no risk, and as many models." if each else "less than an image each: not possible.")
    )
    if plan.asked is not None and plan.why_impossible is None:
        more = plan.asked.members >= each
        say(f"A model sees {'more' if more else 'fewer'} images with the share than with so many parts.")
        say("A smaller share certifies points where fewer agree, by models that saw fewer images; a pilot tells which.")


def _share_row(row: ShareRow, counted: int) -> str:
    votes = "not even all" if row.votes is None else f"{row.votes:,} of {counted:,}"
    return f"{row.share:<30}  {row.members:,g} +- {row.spread:,g}".ljust(50) + f" {votes}"


def _runs(count: int | None) -> str:
    return "no number of runs" if count is None else f"{count:,} runs"


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"
