"""`dpclean verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Json, Quiet, tell
from dpclean.errors import printable

if TYPE_CHECKING:
    from dpclean.certify.verify import Verified


def verify(
    certificate: Annotated[Path, typer.Argument(help="A folder that 'dpclean certify' made.")] = Path("certificate"),
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Recompute a certificate from its votes, in whole numbers; exit code 6 names the first difference.

    Needs no GPU, no torch and no images. That the votes come from honest runs is its issuer's word.

    \b
    dpclean verify ./certificate
    dpclean verify ./certificate --json
    """
    from dpclean.certify.verify import verify as recompute

    tell(recompute(certificate), _tell, json=json, quiet=quiet)


def _tell(result: Verified) -> None:
    say, counts = typer.echo, f"{result.certified} of {result.points} points have a radius, from {result.runs} runs"
    if result.kind == "exploratory":
        say(f"The exploratory report is computed rightly, and proves nothing: {counts}.")
    else:
        say(f"The certificate holds: {counts}.")
    say(f"Everything was recomputed from the votes in {result.seconds:.1f} s.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say("Not checked, because nobody can from here: that the votes come from honest runs on the stated data.")
