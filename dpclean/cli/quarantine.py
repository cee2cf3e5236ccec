"""`dpclean quarantine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpclean.cli.common import Config, Json, Quiet
from dpclean.errors import printable


def quarantine(
    out: Annotated[Path, typer.Argument(help="A folder that 'dpclean sanitize' made.")],
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """List the inputs that were left out, and why: one line each, reason, tab, name."""
    from dpclean.cli import print_json
    from dpclean.pipeline.quarantine import list_quarantined

    rows = list_quarantined(out)
    if json:
        inputs = [{"name": name, "reason": reason} for name, reason in rows]
        print_json({"format": 1, "command": "quarantine", "out": str(out), "quarantined": inputs})
        return
    for name, reason in rows:
        typer.echo(f"{reason}\t{printable(name)}")
