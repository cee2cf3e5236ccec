"""`dpclean features`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Device, Json, Overwrite, Quiet, Readers, tell
from dpclean.cli.panels import INPUT, OUTPUT
from dpclean.cli.values import completing
from dpclean.errors import printable, quoted

if TYPE_CHECKING:
    from dpclean.train.features import FeaturesResult


def features(
    images: Annotated[Path, typer.Argument(help="Folder of images, or of *.safetensors shards.")],
    extractor: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="A model of 'dpclean train', torchvision:NAME, or efficientnet-lite0; @S: edge of the images.",
            rich_help_panel=INPUT,
            autocompletion=completing("efficientnet-lite0", "efficientnet-lite0@112", "torchvision:"),
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to make.", rich_help_panel=OUTPUT)],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With torchvision:NAME: its weights, safetensors.", rich_help_panel=INPUT),
    ] = None,
    device: Device = "auto",
    workers: Readers = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Turn each image into a row of numbers by a frozen network, for 'certify --features'.

    \b
    dpclean features ./raw/train --extractor efficientnet-lite0 --out train.safetensors
    dpclean features ./raw/test --extractor efficientnet-lite0 --out test.safetensors
    dpclean certify --features train.safetensors --test-features test.safetensors --subsample 0.01
    """
    from dpclean.progress import shown
    from dpclean.train.features import features as make

    with shown(quiet) as progress:
        result = make(
            images,
            out,
            extractor=extractor,
            weights=weights,
            device=device,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    tell(result, _tell, json=json, quiet=quiet)


def _tell(result: FeaturesResult) -> None:
    say = typer.echo
    say(f"{result.images} images in {len(result.classes)} classes, {result.dimensions} numbers each.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    if result.assumption:
        say(f"Note: whether the extractor was made from these images is not known: {printable(result.assumption)}.")
    say(f"Next: dpclean certify --features {quoted(result.out)} --test-features TEST.safetensors --subsample 0.01")
