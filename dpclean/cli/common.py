"""Options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpclean.cli import values

Json = Annotated[bool, typer.Option("--json", envvar="DPCLEAN_JSON", help="One JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="DPCLEAN_QUIET", help="No progress.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", envvar="DPCLEAN_DRY_RUN", help="Say what would happen and touch nothing.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", envvar="DPCLEAN_OVERWRITE", help="Replace an OUT that dpclean made.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        envvar="DPCLEAN_CONFIG",
        callback=values.config,
        is_eager=True,
        metavar="FILE.toml",
        help="Take options from a file.",
    ),
]
Device = Annotated[str, typer.Option(envvar="DPCLEAN_DEVICE", metavar="auto|cpu|cuda[:N]", help="Where to compute.")]
Dtype = Annotated[
    str, typer.Option(envvar="DPCLEAN_DTYPE", metavar="auto|bf16|fp16|fp32", help="Precision of the denoiser.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(envvar="DPCLEAN_BATCH_SIZE", metavar="N", help="Images of 32 px in a batch; others in proportion."),
]
Readers = Annotated[int | None, typer.Option(envvar="DPCLEAN_WORKERS", metavar="N", help="Processes that read images.")]
Threads = Annotated[
    int | None,
    typer.Option(
        envvar="DPCLEAN_THREADS", metavar="N", help="Threads that compute; as many as cores are idle, if left out."
    ),
]
