"""`dpclean denoiser`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli import values
from dpclean.cli.command import Command
from dpclean.cli.common import Config, Device, DryRun, Dtype, Json, Overwrite, Quiet, Readers, Threads, tell
from dpclean.cli.panels import DENOISER, INPUT, OUTPUT, TRAINING
from dpclean.cli.values import completing
from dpclean.errors import printable, quoted

if TYPE_CHECKING:
    from dpclean.denoiser_training.evaluate import Evaluation, Seeing
    from dpclean.denoiser_training.options import FitKeywords
    from dpclean.denoiser_training.results import FitDryRun, FitResult

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def denoiser() -> None:
    """The denoisers that are there; fitting one to images of your own, and measuring it."""


@app.command("list", cls=Command)
def list_denoisers(
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """The bundled denoisers: name, folder, SHA-256 of the weights."""
    from dpclean.cli import print_json
    from dpclean.denoise.loading import BUNDLED, find_denoiser

    rows = [{"id": name, "folder": str(folder), **find_denoiser(name).digests()} for name, folder in BUNDLED.items()]
    if json:
        print_json({"format": 1, "command": "denoiser list", "denoisers": rows})
        return
    for row in rows:
        typer.echo(f"{row['id']}\t{row['folder']}\t{row['weights']}")


@app.command("fit", cls=Command)
def fit_denoiser(
    data: Annotated[list[Path], typer.Argument(help="Folders of trusted images, or of *.safetensors shards.")],
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)],
    init: Annotated[
        str | None,
        typer.Option(
            metavar="ID|DIR",
            help="Begin from this denoiser, e.g. natural.",
            rich_help_panel=TRAINING,
            autocompletion=completing("natural", "perceptual"),
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Keep what this classifier sees too: what 'dpclean train' made of trusted images.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(metavar="M", help="As many steps as fit into this time.", rich_help_panel=TRAINING)
    ] = 60.0,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Just so many steps: repeatable.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Patches of 32 px in a step.", rich_help_panel=TRAINING)
    ] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Highest rate; 1e-3, with --init 3e-4.", rich_help_panel=TRAINING),
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
    """Fit a denoiser to images that you trust. The same command again goes on where it stopped.

    \b
    dpclean denoiser fit ./trusted --init natural --minutes 60 --out ./ours
    dpclean sanitize ./raw --sigma 0.25 --denoiser ./ours --out ./clean
    """
    from dpclean.denoiser_training import fit as module
    from dpclean.progress import shown
    from dpclean.train.model import read_model

    options: FitKeywords = {
        "init": init,
        "classifier": read_model(classifier).classifier() if classifier else None,
        "minutes": minutes,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "device": device,
        "workers": workers,
        "threads": threads,
        "overwrite": overwrite,
    }
    if dry_run:
        tell(module.dry_run(data, out, **options), _tell_dry_run, json=json)
        return
    with shown(quiet) as progress:
        result = module.fit(data, out, progress=progress, **options)
    tell(result, _tell_fit, json=json, quiet=quiet)


def _tell_dry_run(told: FitDryRun) -> None:
    typer.echo(
        f"Would fit {printable(told.out)} to {told.images} images ({told.patches} patches) in {told.steps} steps: about"
        f" {told.seconds / 60:.1f} minutes on {told.device}, with {told.memory_bytes / 1e9:.1f} GB of its memory and at"
        f" most {told.bytes / 1e6:.0f} MB on the disk."
    )
    _tell_warnings(told.warnings)
    typer.echo("Nothing was written. Next: the same command without --dry-run.")


def _tell_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        typer.echo(f"Note: {printable(warning)}.")


def _tell_fit(result: FitResult) -> None:
    out = printable(result.out)
    if result.already_complete:
        typer.echo(f"{out} is already complete: {result.images} images, {result.steps} steps, seed {result.seed}.")
    else:
        typer.echo(
            f"Fitted {out} to {result.images} images in {result.steps} steps, {result.seconds:.0f} s on {result.device}"
            f" (seed {result.seed})."
        )
    _tell_warnings(result.warnings)
    typer.echo(
        f"To look at: {out}/samples.png\n"
        f"Next, with images that are not among these: dpclean denoiser eval {quoted(str(result.out))} IMAGES"
    )


@app.command("eval", cls=Command)
def eval_denoiser(
    denoiser: Annotated[
        str, typer.Argument(help="natural, perceptual, diffusers folder, or hub id.", metavar="ID|DIR")
    ],
    data: Annotated[Path, typer.Argument(help="Folder of clean images, or of *.safetensors shards.")],
    sigmas: Annotated[
        list[str] | None,
        typer.Option(
            "--sigmas",
            "--sigma",
            metavar="S,S,...",
            help="Noise levels on the [0, 1] pixel scale; 0.05,0.1,0.25,0.5. May be repeated.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N inputs.", rich_help_panel=INPUT)
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="one-step|ddim:STEPS|sde:STEPS,...",
            help="How the noise is taken away; one-step. Several side by side, or repeated.",
            rich_help_panel=DENOISER,
            autocompletion=completing("one-step", "one-step,ddim:4", "one-step,ddim:2,ddim:4,ddim:8,sde:8,sde:20"),
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Measure too what this classifier sees: what 'dpclean train' made.",
            rich_help_panel=DENOISER,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    workers: Readers = None,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """PSNR and SSIM of a denoiser on clean images, beside those of the noised ones, by method; and what it costs.

    \b
    dpclean denoiser eval natural ./trusted-but-not-fitted --sigmas 0.1,0.25
    dpclean denoiser eval natural ./test --method one-step,ddim:4,sde:20 --sigmas 0.25 --classifier ./model
    """
    from dpclean.denoiser_training.evaluate import evaluate
    from dpclean.progress import shown

    levels = [values.sigma(text.strip()) for given in sigmas or ["0.05,0.1,0.25,0.5"] for text in given.split(",")]
    with shown(quiet) as progress:
        result = evaluate(
            denoiser,
            data,
            sigmas=levels,
            limit=limit,
            device=device,
            dtype=dtype,
            method=",".join(method or ["one-step"]),
            classifier=classifier,
            workers=workers,
            progress=progress,
        )
    tell(result, _tell_evaluation, json=json)


def _tell_evaluation(result: Evaluation) -> None:
    seeing = result.classifier
    typer.echo(f"{printable(result.denoiser)} on {result.images} images: means, noised -> denoised")
    columns = [f"{'sigma':>6}", f"{'method':<9}", f"{'PSNR in dB':>16}", f"{'SSIM':>16}"]
    columns += [f"{'agreement':>10}"] * (seeing is not None) + [f"{'accuracy':>10}"] * bool(seeing and seeing.labelled)
    columns += [f"{'MP/s':>8}", f"{'cost':>8}"]
    typer.echo("  ".join(columns).rstrip())
    for row in result.rows:
        psnr = f"{row.psnr_noised:.2f} -> {row.psnr_denoised:.2f}"
        ssim = f"{row.ssim_noised:.3f} -> {row.ssim_denoised:.3f}"
        shares = [f"{100 * share:8.1f} %" for share in (row.agreement, row.accuracy) if share is not None]
        steps = "1 step" if row.evaluations == 1 else f"{row.evaluations} steps"
        cost = steps if row.cost is None else f"{row.cost:.1f} x"
        cells = [f"{row.sigma:6g}", f"{row.method:<9}", f"{psnr:>16}", f"{ssim:>16}", *shares]
        typer.echo("  ".join([*cells, f"{row.megapixels_per_second:8.3f}", f"{cost:>8}"]))
    if seeing is not None:
        _tell_classifier(seeing)
    if worse := sorted({f"{row.sigma:g}" for row in result.rows if row.psnr_denoised < row.psnr_noised}):
        typer.echo(f"Note: at sigma {', '.join(worse)} images are worse denoised than noised; fit one to their kind.")
    _tell_warnings(result.warnings)
    if result.seen:
        typer.echo(f"Note: the denoiser was fitted on {result.seen} of them, so the figures flatter it.")
    elif result.seen is None:
        typer.echo("Note: the denoiser does not say what it was fitted on; if on these, the figures flatter it.")


def _tell_classifier(seeing: Seeing) -> None:
    typer.echo(
        f"agreement: where {printable(seeing.model)} sees the class that it sees in the clean image, both brought to"
        f" {seeing.size} px"
        + (
            f"; on the clean images its accuracy is {100 * seeing.accuracy:.1f} % of {seeing.labelled}."
            if seeing.accuracy is not None
            else "."
        )
    )
    if seeing.seen:
        typer.echo(f"Note: the classifier was trained on {seeing.seen} of them, so what it sees flatters.")
