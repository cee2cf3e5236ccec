"""`dpclean verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Json, Quiet, tell
from dpclean.errors import printable

if TYPE_CHECKING:
    from dpclean.certificate.verify import Verified


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="A folder that 'dpclean certify' made, or the certificate.json in it.")
    ] = Path("certificate"),
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Make a certificate again from its votes and compare every byte; exit code 6 names the first difference.

    In whole numbers; needs no GPU, no torch and no images. That the votes come from honest runs is its issuer's word:
    what else is, is listed. With --quiet the exit code says it all.

    \b
    dpclean verify ./certificate
    dpclean verify ./certificate/certificate.json --json
    """
    from dpclean.certificate.verify import verify as make_again

    tell(make_again(certificate), _tell, json=json, quiet=quiet)


def _tell(result: Verified) -> None:
    say, counts = typer.echo, f"{result.certified} of {result.points} points have a radius, from {result.runs} runs"
    proves = ", and proves nothing: this report is exploratory" if result.kind == "exploratory" else ""
    say(f"The arithmetic holds{proves}: {counts}.")
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
