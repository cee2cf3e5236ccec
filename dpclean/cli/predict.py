"""`dpclean predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Device, Json, Quiet, Readers
from dpclean.cli.panels import VOTES
from dpclean.errors import UsageError, printable

if TYPE_CHECKING:
    from dpclean.certify.results import VotedImage
    from dpclean.certify.smooth import SmoothKeywords


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="What 'dpclean train' made; a certificate with --keep-models or at test time; with --smooth as --model"
            " of 'certify'."
        ),
    ],
    images: Annotated[Path, typer.Argument(help="Folder of images, or of *.safetensors shards; a file of features.")],
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the extractor of the certificate is now [where it was]; its digest is compared.",
        ),
    ] = None,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth",
            help="The vote of a model on many noised and denoised copies of each image, with its radius.",
            rich_help_panel=VOTES,
        ),
    ] = False,
    sigma: Annotated[
        str | None,
        typer.Option(metavar="S", help="With --smooth: noise on the [0, 1] pixel scale.", rich_help_panel=VOTES),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(metavar="N", help="With --smooth: votes an image [1000].", rich_help_panel=VOTES)
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            metavar="A", help="With --smooth: probability that a claim may be false [0.001].", rich_help_panel=VOTES
        ),
    ] = None,
    local_smoothing: Annotated[
        str | None,
        typer.Option(metavar="M:S", help="With --smooth: as in 'dpclean certify'.", rich_help_panel=VOTES),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights, safetensors: of --extractor torchvision:NAME, or with --smooth of such a model.",
        ),
    ] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="With --smooth: the denoiser [natural].", rich_help_panel=VOTES),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="With --smooth: as in 'dpclean sanitize' [one-step].", rich_help_panel=VOTES
        ),
    ] = None,
    device: Device = "auto",
    workers: Readers = None,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Classify images: one line each, name, tab, class, tab, probability.

    With the models of a certificate each line is name, class, certified radius, votes for the class and the runs that
    these are of (with the bound cohen those that did not select it); an image for which the models claim nothing has no
    class. Valid for images that were chosen without looking at these models.

    With --smooth the lines are the same, and a radius is how far the image itself may be changed. Nothing is said about
    poisoned training data then. A certificate at test time stands for its model and all settings.

    \b
    dpclean predict ./model ./photos > predictions.tsv
    dpclean predict ./certificate ./photos > votes.tsv
    dpclean predict ./model ./photos --smooth --sigma 0.25 --runs 1000
    """
    from dpclean.cli import print_json

    of_smoothing: SmoothKeywords = {
        "sigma": sigma,
        "runs": runs,
        "alpha": alpha,
        "local_smoothing": local_smoothing,
        "denoiser": denoiser,
        "method": method,
    }
    given = [f"--{name.replace('_', '-')}" for name, value in of_smoothing.items() if value is not None]
    if (model / "certificate.json").is_file() or model.name == "certificate.json":
        if given:
            raise UsageError(f"{given[0]} is what the certificate says", "leave it out, or give a model in its place")
        _by_vote(model, images, extractor, weights, device, workers, json, smooth, quiet)
        return
    if smooth:
        from dpclean.certify.smooth import smooth as smoothed
        from dpclean.progress import shown

        if extractor is not None:
            raise UsageError("--extractor is that of a certificate, and --smooth asks one model", "leave it out")
        with shown(quiet) as progress:
            found = smoothed(
                model, images, weights=weights, device=device, workers=workers, on_remark=_noting(quiet),
                progress=progress, **of_smoothing,
            )  # fmt: skip
        _tell_votes(found, "model", model, json)
        return
    if given:
        raise UsageError(f"{given[0]} has a meaning with --smooth only", "leave it out")
    if (extractor, weights) != (None, None):
        raise UsageError("--extractor is that of a certificate, and this is one model", "leave it out")
    from dpclean.train.predict import predict as run

    predicted = run(model, images, device=device, workers=workers)
    if json:
        print_json(predicted.as_dict())
        return
    typer.echo("name\tclass\tprobability")
    for row in predicted.predictions:
        typer.echo(f"{printable(row.name)}\t{printable(row.class_name)}\t{row.probability:.6f}")
    for warning in [] if quiet else predicted.warnings:
        typer.echo(f"dpclean: note: {printable(warning)}", err=True)


def _by_vote(
    certificate: Path,
    images: Path,
    extractor: str | None,
    weights: Path | None,
    device: str,
    workers: int | None,
    json: bool,
    smooth: bool,
    quiet: bool,
) -> None:
    from dpclean.certify.predict import predict as vote
    from dpclean.progress import shown

    with shown(quiet) as progress:
        found = vote(
            certificate, images, extractor=extractor, weights=weights, device=device, workers=workers, smooth=smooth,
            on_remark=_noting(quiet), progress=progress,
        )  # fmt: skip
    _tell_votes(found, "certificate", certificate, json)


def _noting(quiet: bool) -> Callable[[str], None]:
    """What tells of what is as well to know, where that is wanted."""
    return lambda remark: None if quiet else typer.echo(f"dpclean: note: {printable(remark)}", err=True)


def _tell_votes(found: list[VotedImage], what: str, path: Path, json: bool) -> None:
    from dpclean.cli import print_json

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
        print_json({"format": 1, "command": "predict", what: str(path), "predictions": rows})
        return
    typer.echo("\t".join(("name", "class", "certified_radius", "votes", "runs", *(found[0].whole if found else ()))))
    for image in found:
        predicted = "" if image.predicted is None else printable(image.predicted)
        numbers = (image.votes, image.runs, *image.whole.values())
        typer.echo("\t".join((printable(image.name), predicted, image.certified_radius, *map(str, numbers))))
