"""`dpclean predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpclean.errors import printable


def predict(
    model: Annotated[Path, typer.Argument(help="A folder that 'dpclean train' made.", envvar="DPCLEAN_MODEL")],
    images: Annotated[Path, typer.Argument(help="Folder of images, or of *.safetensors shards.")],
    device: Annotated[
        str, typer.Option(envvar="DPCLEAN_DEVICE", metavar="auto|cpu|cuda[:N]", help="Where to compute.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(envvar="DPCLEAN_WORKERS", metavar="N", help="Processes that read images.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", envvar="DPCLEAN_JSON", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Classify images: one line each, name, tab, class, tab, probability.

    \b
    dpclean predict ./model ./photos > predictions.tsv
    """
    from dpclean.cli import print_json
    from dpclean.train.predict import predict as run

    found = run(model, images, device=device, workers=workers)
    if json:
        print_json(found.as_dict())
        return
    typer.echo("name\tclass\tprobability")
    for row in found.predictions:
        typer.echo(f"{printable(row.name)}\t{printable(row.class_name)}\t{row.probability:.6f}")
    if left_out := sum(found.quarantined.values()):
        typer.echo(f"dpclean: {left_out} images cannot be used and have no line", err=True)
