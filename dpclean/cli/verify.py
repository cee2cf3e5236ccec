"""`dpclean verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Json, Quiet, tell
from dpclean.cli.panels import STATEMENT
from dpclean.errors import printable

if TYPE_CHECKING:
    from dpclean.certificate.mixtures import Withstood
    from dpclean.certificate.verify import Verified


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="A folder that 'dpclean certify' made, or the certificate.json in it.")
    ] = Path("certificate"),
    inserted: Annotated[
        int, typer.Option(metavar="N", min=0, help="Ask: if so many images had been put in.", rich_help_panel=STATEMENT)
    ] = 0,
    changed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Ask: if so many were changed or relabelled at will.", rich_help_panel=STATEMENT
        ),
    ] = 0,
    missing: Annotated[
        int, typer.Option(metavar="N", min=0, help="Ask: if so many were taken away.", rich_help_panel=STATEMENT)
    ] = 0,
    radius: Annotated[
        str,
        typer.Option(
            metavar="R", help="Ask: if all others moved too, by less than R together.", rich_help_panel=STATEMENT
        ),
    ] = "0",
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Make a certificate again from its votes and compare every byte; exit code 6 names the first difference.

    In whole numbers; needs no GPU, no torch and no images. That the votes come from honest runs is its issuer's word:
    what else is, is listed. With --quiet the exit code says it all. Asked for images that were put in, changed or taken
    away, and others that moved, it tells for how many points the claim holds against all of that together.

    \b
    dpclean verify ./certificate
    dpclean verify ./certificate/certificate.json --json
    dpclean verify ./certificate --inserted 20 --changed 5 --radius 0.1
    """
    from dpclean.certificate.mixtures import Mixture
    from dpclean.certificate.verify import verify as make_again

    asked = Mixture(inserted, changed, missing, radius)
    tell(make_again(certificate, None if asked == Mixture() else asked), _tell, json=json, quiet=quiet)


def _tell(result: Verified) -> None:
    say, counts = typer.echo, f"{result.certified} of {result.points} points have a claim, from {result.runs} runs"
    proves = ", and proves nothing: this report is exploratory" if result.kind == "exploratory" else ""
    say(f"The arithmetic holds{proves}: {counts}.")
    if result.headline is not None:
        say(f"What it says: {result.headline}")
    if result.withstood is not None:
        _tell_withstood(result.withstood)
    say(f"Made again from the votes in {result.seconds:.1f} s:")
    for line in result.recomputed:
        say(f"  - {line}")
    say("The issuer's word, which nobody can check from here:")
    for line in result.issuers_word:
        say(f"  - {printable(line)}")
    say(f"  - Terms: {', '.join(result.issuers_terms)}.")
    if result.not_read:
        say(f"Not read, and perhaps saying something else: {', '.join(result.not_read)}.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"Job: {result.job}")


def _tell_withstood(asked: Withstood) -> None:
    from dpclean.report.percent import share

    for sentence in asked.statement:
        typer.echo(sentence)
    if asked.accuracy is None:
        return
    lower = (
        ""
        if asked.lower is None or asked.confidence is None
        else (
            f"; of all images that they are a random sample of at least {share(asked.lower)}, with a confidence of"
            f" {share(asked.confidence)} if this was asked without looking at the votes"
        )
    )
    typer.echo(f"Right are {asked.right:,} of {asked.labelled:,} labelled points, {share(asked.accuracy)}{lower}.")
