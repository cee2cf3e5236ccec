"""`dpclean doctor`."""

from __future__ import annotations

import typer

from dpclean.cli.common import Config, Json, Quiet


def doctor(
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Tell what is installed and built, what will be used, and what to do about what is missing."""
    from dpclean.cli import print_json
    from dpclean.doctor import examine

    report = examine()
    if json:
        print_json({"format": 1, "command": "doctor", **report.as_dict()})
    else:
        for line in report.lines(only_bad=quiet):
            typer.echo(line)
    if report.failed:
        raise typer.Exit(4)
