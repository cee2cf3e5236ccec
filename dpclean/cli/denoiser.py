"""`dpclean denoiser`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def denoiser() -> None:
    """The denoisers that are there."""


@app.command("list")
def list_denoisers(
    json: Annotated[
        bool, typer.Option("--json", envvar="DPCLEAN_JSON", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """The bundled denoisers: name, folder, SHA-256 of the weights."""
    from dpclean.cli import print_json
    from dpclean.denoise.loading import BUNDLED, find_denoiser

    rows = [{"id": name, "folder": str(folder), **find_denoiser(name).digests()} for name, folder in BUNDLED.items()]
    if json:
        print_json({"format": 1, "command": "denoiser list", "denoisers": rows})
        return
    for row in rows:
        typer.echo(f"{row['id']}\t{row['folder']}\t{row['weights']}")
