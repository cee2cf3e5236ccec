"""`dpclean verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpclean.errors import printable


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="A folder that 'dpclean certify' made.", envvar="DPCLEAN_CERTIFICATE")
    ] = Path("certificate"),
    json: Annotated[
        bool, typer.Option("--json", envvar="DPCLEAN_JSON", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Recompute a certificate from its votes, in whole numbers; exit code 6 names the first difference.

    Needs no GPU, no torch and no images. That the votes come from honest runs is its issuer's word.

    \b
    dpclean verify ./certificate
    dpclean verify ./certificate --json
    """
    from dpclean.certify.verify import verify as recompute
    from dpclean.cli import print_json

    result = recompute(certificate)
    if json:
        print_json(result.as_dict())
        return
    say = typer.echo
    held = "certificate holds" if result.kind == "certificate" else "exploratory report is computed rightly"
    say(
        f"The {held}: {result.certified} of {result.points} points certified by {result.runs} runs,"
        f" everything recomputed from the votes in {result.seconds:.1f} s."
        if result.kind == "certificate"
        else f"The {held}, and proves nothing: {result.points} points, {result.runs} runs, {result.seconds:.1f} s."
    )
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say("Not checked, because nobody can from here: that the votes come from honest runs on the stated data.")
