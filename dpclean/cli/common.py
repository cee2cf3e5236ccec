"""What several commands share: options, each spelled once, and how a result is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from dpclean.cli.panels import COMMON, MACHINE, OUTPUT
from dpclean.cli.values import completing
from dpclean.errors import printable

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.", rich_help_panel=COMMON)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, and silence where all went well.", rich_help_panel=COMMON)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would happen and touch nothing.", rich_help_panel=COMMON)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an OUT that dpclean made.", rich_help_panel=OUTPUT)
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Take options from a file.",
        rich_help_panel=COMMON,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]",
        help="Where to compute.",
        rich_help_panel=MACHINE,
        autocompletion=completing("auto", "cpu", "cuda", "cuda:0"),
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="auto|bf16|fp16|fp32",
        help="Precision of the denoiser.",
        rich_help_panel=MACHINE,
        autocompletion=completing("auto", "bf16", "fp16", "fp32"),
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Images of 32 px in a batch; others in proportion.", rich_help_panel=MACHINE),
]
Readers = Annotated[int | None, typer.Option(metavar="N", help="Processes that read images.", rich_help_panel=MACHINE)]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Threads that compute; as many as cores are idle, if left out.", rich_help_panel=MACHINE
    ),
]


class Result(Protocol):
    """What a command did."""

    def as_dict(self) -> dict[str, Any]: ...


Told = TypeVar("Told", bound=Result)


def tell(result: Told, in_words: Callable[[Told], None], *, json: bool, quiet: bool = False) -> None:
    """Tell a result: as one JSON object, in words, or, with --quiet, only what its reader should not miss."""
    if json:
        from dpclean.cli import print_json

        print_json(result.as_dict())
    elif not quiet:
        in_words(result)
    else:
        for warning in getattr(result, "warnings", ()):
            typer.echo(f"dpclean: note: {printable(warning)}", err=True)
