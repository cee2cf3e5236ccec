"""The commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dpclean.cli import denoiser, doctor, quarantine, sanitize

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"dpclean {metadata.version('dpclean')}")
        raise typer.Exit


@app.callback()
def dpclean(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    """Sanitize training images that others made: noise of a known size, taken away by a diffusion model.

    Every option can also come from the environment (DPCLEAN_SIGMA=0.25) or from a file (--config FILE.toml);
    the command line wins over the environment, the environment over the file.
    """


app.command("sanitize")(sanitize.sanitize)
app.command("quarantine")(quarantine.quarantine)
app.command("doctor")(doctor.doctor)
app.add_typer(denoiser.app, name="denoiser")


def command() -> Any:
    """The command tree that runs."""
    return typer.main.get_command(app)
