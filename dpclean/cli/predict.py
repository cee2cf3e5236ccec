"""`dpclean predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpclean.cli.common import Config, Device, Json, Quiet, Readers
from dpclean.errors import UsageError, printable


def predict(
    model: Annotated[
        Path,
        typer.Argument(help="What 'dpclean train' made, or 'dpclean certify --keep-models'."),
    ],
    images: Annotated[Path, typer.Argument(help="Folder of images, or of *.safetensors shards; a file of features.")],
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the extractor of the certificate is now [where it was]; its digest is compared.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --extractor torchvision:NAME: its weights, safetensors.")
    ] = None,
    device: Device = "auto",
    workers: Readers = None,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Classify images: one line each, name, tab, class, tab, probability.

    With the models of a certificate each line is name, class, certified radius, votes for the class and runs; an image
    for which the models claim nothing has no class. Valid for images that were chosen without looking at these models.

    \b
    dpclean predict ./model ./photos > predictions.tsv
    dpclean predict ./certificate ./photos > votes.tsv
    """
    from dpclean.cli import print_json

    if (model / "certificate.json").is_file() or model.name == "certificate.json":
        _by_vote(model, images, extractor, weights, device, workers, json)
        return
    if (extractor, weights) != (None, None):
        raise UsageError("--extractor is that of a certificate, and this is one model", "leave it out")
    from dpclean.train.predict import predict as run

    found = run(model, images, device=device, workers=workers)
    if json:
        print_json(found.as_dict())
        return
    typer.echo("name\tclass\tprobability")
    for row in found.predictions:
        typer.echo(f"{printable(row.name)}\t{printable(row.class_name)}\t{row.probability:.6f}")
    if (left_out := sum(found.quarantined.values())) and not quiet:
        typer.echo(f"dpclean: {left_out} images cannot be used and have no line", err=True)


def _by_vote(
    certificate: Path,
    images: Path,
    extractor: str | None,
    weights: Path | None,
    device: str,
    workers: int | None,
    json: bool,
) -> None:
    from dpclean.certify.predict import predict as vote
    from dpclean.cli import print_json

    found = vote(certificate, images, extractor=extractor, weights=weights, device=device, workers=workers)
    if json:
        rows = [
            {
                "name": image.name,
                "class": image.predicted,
                "certified_radius": image.certified_radius,
                "votes": image.votes,
                "runs": image.runs,
                **image.whole,
            }
            for image in found
        ]
        print_json({"format": 1, "command": "predict", "certificate": str(certificate), "predictions": rows})
        return
    typer.echo("\t".join(("name", "class", "certified_radius", "votes", "runs", *(found[0].whole if found else ()))))
    for image in found:
        predicted = "" if image.predicted is None else printable(image.predicted)
        numbers = (image.votes, image.runs, *image.whole.values())
        typer.echo("\t".join((printable(image.name), predicted, image.certified_radius, *map(str, numbers))))
