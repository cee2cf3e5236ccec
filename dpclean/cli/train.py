"""`dpclean train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpclean.cli import values
from dpclean.cli.common import Config, Device, DryRun, Json, Overwrite, Quiet, Readers, Threads, tell
from dpclean.cli.panels import DENOISER, INPUT, OUTPUT, TRAINING
from dpclean.cli.values import completing
from dpclean.errors import printable, quoted

if TYPE_CHECKING:
    from dpclean.classifier_training.options import TrainKeywords
    from dpclean.classifier_training.results import TrainDryRun, TrainResult


def train(
    clean: Annotated[
        Path, typer.Argument(help="What 'dpclean sanitize' wrote; with --sigma-augment also images that you trust.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)],
    test: Annotated[
        Path | None, typer.Option(help="Labelled images to measure accuracy on.", rich_help_panel=INPUT)
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(metavar="P", help="Test on this share of the training images instead.", rich_help_panel=INPUT),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[@SIZE]",
            help="tiny, fast, resnet18, or torchvision:NAME; images are brought to SIZE.",
            rich_help_panel=TRAINING,
            autocompletion=completing("tiny", "fast", "resnet18", "torchvision:"),
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE|torchvision[:WEIGHTS]",
            help="Begin from a model, a safetensors file, or torchvision's weights.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Keep the weights of --init but the last layer's.", rich_help_panel=TRAINING),
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RAW", help="Begin on raw data. The model is not certifiable then.", rich_help_panel=TRAINING
        ),
    ] = None,
    warm_epochs: Annotated[
        int, typer.Option(metavar="N", help="Epochs on the raw data.", rich_help_panel=TRAINING)
    ] = 10,
    sigma_augment: Annotated[
        float | None,
        typer.Option(
            parser=values.sigma,
            metavar="S",
            help="Noise and denoise the images anew in every epoch: for a model that is to see such images.",
            rich_help_panel=DENOISER,
        ),
    ] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(
            metavar="ID|DIR",
            help="Of --sigma-augment; natural.",
            rich_help_panel=DENOISER,
            autocompletion=completing("natural", "perceptual"),
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="one-step|ddim:STEPS|sde:STEPS",
            help="Of --sigma-augment; one-step.",
            rich_help_panel=DENOISER,
            autocompletion=completing("one-step", "ddim:4", "sde:8"),
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Same seed, same weights.", rich_help_panel=TRAINING)] = 0,
    device: Device = "auto",
    workers: Readers = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Train a classifier on sanitized images. The same command again goes on where it stopped.

    \b
    dpclean train ./clean --test ./test --out ./model
    dpclean train ./clean --holdout 0.1 --recipe torchvision:convnext_tiny --init torchvision --freeze --out ./model
    dpclean train ./trusted --sigma-augment 0.25 --test ./test --out ./model
    """
    from dpclean.classifier_training import job
    from dpclean.progress import said, shown

    options: TrainKeywords = {
        "test": test,
        "holdout": holdout,
        "recipe": recipe,
        "init": init,
        "freeze": freeze,
        "warm_start": warm_start,
        "warm_epochs": warm_epochs,
        "sigma_augment": sigma_augment,
        "denoiser": denoiser,
        "method": method,
        "seed": seed,
        "device": device,
        "workers": workers,
        "threads": threads,
        "overwrite": overwrite,
    }
    if dry_run:
        told = job.dry_run(clean, out, **options)
        tell(told, _tell_dry_run, json=json)
        return
    with shown(quiet) as progress:
        result = job.train(clean, out, progress=progress, say=said(quiet), **options)
    tell(result, _tell, json=json, quiet=quiet)


def _tell(result: TrainResult) -> None:
    say, out = typer.echo, printable(result.out)
    name = result.recipe["name"]
    if result.already_complete:
        say(f"{out} is already complete: recipe {name}, seed {result.seed}, {result.images} images.")
    else:
        say(
            f"Trained {out} on {result.images} images of {len(result.classes)} classes in {result.seconds:.1f} s"
            f" (recipe {name}, seed {result.seed}, on {result.device})."
        )
        say(_recipe(result.recipe))
    if result.accuracy is not None:
        say(f"Accuracy on {result.test_images} test images ({result.test_source}): {100 * result.accuracy:.2f} %.")
        for class_name, share in result.accuracy_per_class.items():
            say(f"  {printable(class_name)}: {'no test images' if share is None else f'{100 * share:.2f} %'}")
    if result.accuracy_denoised is not None:
        say(f"The same, noised at sigma {result.sigma_augment:g} and denoised: {100 * result.accuracy_denoised:.2f} %.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"To look at: {out}/training.svg shows how it went.")
    if result.sigma_augment is None:
        say(f"Next, to classify images: dpclean predict {quoted(result.out)} IMAGES")
    else:
        say(
            "Next, to classify images, which it is to see noised and denoised alike:\n"
            f"  dpclean sanitize IMAGES --sigma {result.sigma_augment:g} --out DENOISED\n"
            f"  dpclean predict {quoted(result.out)} DENOISED"
        )


def _recipe(recipe: dict[str, Any]) -> str:
    return "Recipe: " + ", ".join(f"{name} {value}" for name, value in recipe.items()) + "."


def _tell_dry_run(told: TrainDryRun) -> None:
    typer.echo(
        f"Would train on {told.images} images of {len(told.classes)} classes at {told.size} px into"
        f" {printable(told.out)}: {told.steps} steps, about {told.seconds:.0f} s and {told.bytes / 1e6:.1f} MB."
    )
    typer.echo(_recipe(told.recipe))
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
