"""`dpclean train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpclean.cli.common import Config, Device, DryRun, Json, Overwrite, Quiet, Readers, Threads
from dpclean.errors import printable

if TYPE_CHECKING:
    from dpclean.train.results import Plan, TrainResult


def train(
    clean: Annotated[Path, typer.Argument(help="What 'dpclean sanitize' wrote.", envvar="DPCLEAN_CLEAN")],
    out: Annotated[Path, typer.Option(envvar="DPCLEAN_OUT", help="Folder to make.")],
    test: Annotated[
        Path | None, typer.Option(envvar="DPCLEAN_TEST", help="Labelled images to measure accuracy on.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(envvar="DPCLEAN_HOLDOUT", metavar="P", help="Test on this share of the training images instead."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            envvar="DPCLEAN_RECIPE",
            metavar="NAME[@SIZE]",
            help="tiny, fast, resnet18, or torchvision:NAME; images are brought to SIZE.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            envvar="DPCLEAN_INIT",
            metavar="DIR|FILE|torchvision[:WEIGHTS]",
            help="Begin from a model, a safetensors file, or torchvision's weights.",
        ),
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", envvar="DPCLEAN_FREEZE", help="Keep the weights of --init but the last layer's.")
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            envvar="DPCLEAN_WARM_START", metavar="RAW", help="Begin on raw data. The model is not certifiable then."
        ),
    ] = None,
    warm_epochs: Annotated[
        int, typer.Option(envvar="DPCLEAN_WARM_EPOCHS", metavar="N", help="Epochs on the raw data.")
    ] = 10,
    seed: Annotated[int, typer.Option(envvar="DPCLEAN_SEED", metavar="N", help="Same seed, same weights.")] = 0,
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
    """
    from dpclean.cli import print_json
    from dpclean.cli.progress import said, shown
    from dpclean.train import job

    options = {
        "test": test,
        "holdout": holdout,
        "recipe": recipe,
        "init": init,
        "freeze": freeze,
        "warm_start": warm_start,
        "warm_epochs": warm_epochs,
        "seed": seed,
        "device": device,
        "workers": workers,
        "threads": threads,
        "overwrite": overwrite,
    }
    if dry_run:
        plan = job.plan(clean, out, **options)
        print_json(plan.as_dict()) if json else _tell_plan(plan)
        return
    with shown(quiet) as progress:
        result = job.train(clean, out, progress=progress, say=said(quiet), **options)
    print_json(result.as_dict()) if json else _tell(result)


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
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"Next: 'dpclean predict {out} IMAGES' classifies images; {out}/training.svg shows how it went.")


def _recipe(recipe: dict[str, Any]) -> str:
    return "Recipe: " + ", ".join(f"{name} {value}" for name, value in recipe.items()) + "."


def _tell_plan(plan: Plan) -> None:
    typer.echo(
        f"Would train on {plan.images} images of {len(plan.classes)} classes at {plan.size} px into"
        f" {printable(plan.out)}: {plan.steps} steps, about {plan.seconds:.0f} s and {plan.bytes / 1e6:.1f} MB."
    )
    typer.echo(_recipe(plan.recipe))
    for warning in plan.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
