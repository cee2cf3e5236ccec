"""The commands, put together."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from dpclean import __version__
from dpclean.cli.command import Command

# in the order of the help; each is a module of this package with a function, or an app of its own, to go with it
COMMANDS = (
    *("sanitize", "train", "predict", "features", "certify", "verify", "plan", "audit"),
    *("quarantine", "denoiser", "doctor"),
)

HELP = """Sanitize training images that others made: noise of a known size, taken away by a diffusion model.

Every option can also come from the environment (DPCLEAN_SANITIZE_SIGMA=0.25) or from a file (--config FILE.toml);
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


def command(first: str | None) -> Any:
    """The command tree for a command line that begins with the word first, None where it may begin with anything.

    Only a command that is named is imported. Where one comes first, the options that stand before commands are left
    out: typer reads any option value, even one that was not given, with a library that takes longer to import than
    all the rest.
    """
    helpful: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        add_completion=first is None,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=helpful if first is None else {"help_option_names": []},
    )
    app.callback(help=HELP)(_own_options if first is None else lambda: None)
    for name in (first,) if first in COMMANDS else COMMANDS:
        module = import_module(f"dpclean.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, context_settings=helpful)
        else:
            app.command(name, cls=Command, context_settings=helpful)(getattr(module, str(name)))
    return typer.main.get_command(app)
