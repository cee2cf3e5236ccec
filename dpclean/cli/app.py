"""The commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dpclean import __version__
from dpclean.cli import certify, denoiser, doctor, plan, predict, quarantine, sanitize, train, verify
from dpclean.cli.command import Command

HELP = """Sanitize training images that others made: noise of a known size, taken away by a diffusion model.

Every option can also come from the environment (DPCLEAN_SIGMA=0.25) or from a file (--config FILE.toml);
the command line wins over the environment, the environment over the file.
"""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dpclean {__version__}")
        raise typer.Exit


def _own_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    pass


def command(own_options: bool) -> Any:
    """The command tree, with or without the options that stand before a command.

    They are left out where a command comes first: typer reads any option value, even one that was not given, with
    a library that takes longer to import than all the rest.
    """
    helpful: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=own_options,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=helpful if own_options else {"help_option_names": []},
    )
    app.callback(help=HELP)(_own_options if own_options else lambda: None)
    app.command("sanitize", cls=Command, context_settings=helpful)(sanitize.sanitize)
    app.command("train", cls=Command, context_settings=helpful)(train.train)
    app.command("predict", cls=Command, context_settings=helpful)(predict.predict)
    app.command("certify", cls=Command, context_settings=helpful)(certify.certify)
    app.command("verify", cls=Command, context_settings=helpful)(verify.verify)
    app.command("plan", cls=Command, context_settings=helpful)(plan.plan)
    app.command("quarantine", cls=Command, context_settings=helpful)(quarantine.quarantine)
    app.command("doctor", context_settings=helpful)(doctor.doctor)
    app.add_typer(denoiser.app, name="denoiser", context_settings=helpful)
    return typer.main.get_command(app)
