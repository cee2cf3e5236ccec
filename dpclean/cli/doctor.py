"""`dpclean doctor`."""

from __future__ import annotations

import typer

from dpclean.cli.common import Json


def doctor(
    json: Json = False,
) -> None:
    """Tell what is installed and built, what will be used, and what to do about what is missing."""
    from dpclean.cli import print_json
    from dpclean.doctor import examine

    report = examine()
    if json:
        print_json({"format": 1, "command": "doctor", **report.as_dict()})
    else:
        for line in report.lines():
            typer.echo(line)
    if report.failed:
        raise typer.Exit(4)
