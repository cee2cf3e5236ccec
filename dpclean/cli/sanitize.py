"""`dpclean sanitize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli import values
from dpclean.cli.common import BatchSize, Config, Device, DryRun, Dtype, Json, Overwrite, Quiet, Threads, tell
from dpclean.cli.panels import DENOISER, INPUT, MACHINE, NOISE, OUTPUT
from dpclean.cli.values import completing
from dpclean.errors import UsageError, printable, quoted

if TYPE_CHECKING:
    from dpclean.pipeline.options import SanitizeKeywords
    from dpclean.pipeline.results import SanitizeDryRun, SanitizeResult


def sanitize(
    raw: Annotated[Path, typer.Argument(help="Folder of images, or of *.safetensors shards.")],
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)],
    sigma: Annotated[
        float | None,
        typer.Option(
            parser=values.sigma, metavar="S", help="Noise on the [0, 1] pixel scale, 0 to 4.", rich_help_panel=NOISE
        ),
    ] = None,
    sigma_sheet: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="In place of --sigma: show a few images at these, on a page beside OUT, and end.",
            rich_help_panel=NOISE,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="png|webp|same",
            help="Lossless output format of images.",
            rich_help_panel=OUTPUT,
            autocompletion=completing("png", "webp", "same"),
        ),
    ] = "png",
    alpha_policy: Annotated[
        str,
        typer.Option(
            metavar="composite|drop|keep|reject",
            help="Transparency: composite on white, drop it, keep it unsanitized, or leave such images out.",
            rich_help_panel=OUTPUT,
            autocompletion=completing("composite", "drop", "keep", "reject"),
        ),
    ] = "composite",
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="nhwc|nchw",
            help="Axes of shards where a guess is ambiguous.",
            rich_help_panel=INPUT,
            autocompletion=completing("nhwc", "nchw"),
        ),
    ] = None,
    carry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Copy this tensor of a shard unsanitized; 'all' for all of them.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links out of RAW, and to folders.", rich_help_panel=INPUT)
    ] = False,
    max_pixels: Annotated[
        int, typer.Option(parser=values.size, metavar="N", help="Leave larger images out.", rich_help_panel=INPUT)
    ] = "100M",  # type: ignore[assignment]
    max_bad: Annotated[
        str,
        typer.Option(metavar="N|P%", help="Stop when more inputs than this cannot be used.", rich_help_panel=INPUT),
    ] = "100%",
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N inputs.", rich_help_panel=INPUT)
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only N inputs, of every class its share, at even distances.", rich_help_panel=INPUT
        ),
    ] = None,
    denoiser: Annotated[
        str,
        typer.Option(
            metavar="ID|DIR",
            help="natural, perceptual, diffusers folder, or hub id.",
            rich_help_panel=DENOISER,
            autocompletion=completing("natural", "perceptual"),
        ),
    ] = "natural",
    method: Annotated[
        str,
        typer.Option(
            metavar="one-step|ddim:STEPS|sde:STEPS",
            help="How the noise is taken away.",
            rich_help_panel=DENOISER,
            autocompletion=completing("one-step", "ddim:4", "sde:8"),
        ),
    ] = "one-step",
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read and write images.", rich_help_panel=MACHINE)
    ] = None,
    threads: Threads = None,
    decode_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Leave out what takes longer to read.", rich_help_panel=INPUT),
    ] = 30.0,
    decode_memory: Annotated[
        int,
        typer.Option(
            parser=values.size,
            metavar="N",
            help="Leave out what takes more memory to read.",
            rich_help_panel=INPUT,
        ),
    ] = "1G",  # type: ignore[assignment]
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Derive the noise key from a number: repeatable, not secret.", rich_help_panel=NOISE
        ),
    ] = None,
    reveal_key: Annotated[
        bool, typer.Option("--reveal-key", help="Write the noise key into the manifest.", rich_help_panel=NOISE)
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Leave a page with examples beside OUT.", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Overwrite = False,
    check_raw: Annotated[
        bool,
        typer.Option(
            "--check-raw",
            help="Where OUT is there: read all of RAW again and compare it with what was read then.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    retry_bad: Annotated[
        bool,
        typer.Option(
            "--retry-bad", help="Where OUT is there: try again what could not be read.", rich_help_panel=INPUT
        ),
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Where OUT is there: do files of RAW that have changed anew.", rich_help_panel=INPUT
        ),
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Noise and denoise every image of RAW into OUT. The same command again goes on where it stopped.

    \b
    dpclean sanitize ./raw --sigma 0.25 --out ./clean
    dpclean sanitize ./shards --sigma 0.1 --out ./clean --json --quiet
    """
    from dpclean import pipeline
    from dpclean.progress import shown

    options: SanitizeKeywords = {
        "denoiser": denoiser,
        "method": method,
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "workers": workers,
        "threads": threads,
        "seed": seed,
        "reveal_key": reveal_key,
        "format": format,
        "alpha_policy": alpha_policy,
        "layout": layout,
        "carry": tuple(carry or ()),
        "follow_links": follow_links,
        "max_bad": max_bad,
        "max_pixels": max_pixels,
        "decode_timeout": decode_timeout,
        "decode_memory": decode_memory,
        "limit": limit,
        "sample": sample,
        "overwrite": overwrite,
        "check_raw": check_raw,
        "retry_bad": retry_bad,
        "update": update,
        "report": report,
    }
    if sigma_sheet is not None:
        _show_sigmas(raw, out, sigma_sheet, options, json, quiet)
        return
    if sigma is None:
        raise UsageError(
            "missing option '--sigma'", "0.25 is a common choice; --sigma-sheet 0.1,0.25,0.5 shows your images at some"
        )
    if dry_run:
        told = pipeline.dry_run(raw, out, sigma=sigma, **options)
        tell(told, _tell_dry_run, json=json)
        return
    with shown(quiet) as progress:
        result = pipeline.sanitize(raw, out, sigma=sigma, progress=progress, **options)
    tell(result, _tell, json=json, quiet=quiet)


def _show_sigmas(raw: Path, out: Path, sigmas: str, options: SanitizeKeywords, json: bool, quiet: bool) -> None:
    from dpclean import pipeline
    from dpclean.cli import print_json

    pages = pipeline.sigma_sheet(raw, out, sigmas=[values.sigma(text.strip()) for text in sigmas.split(",")], **options)
    if json:
        print_json({"format": 1, "command": "sanitize", "sigma_sheet": pages})
    elif not quiet:
        for page in pages:
            typer.echo(f"To look at: {printable(page)}")
        typer.echo("Next: the same command with --sigma S in place of --sigma-sheet.")


def _tell(result: SanitizeResult) -> None:
    say, out = typer.echo, printable(result.out)
    if result.already_complete:
        say(f"{out} is already complete: {result.images} images at sigma {result.sigma:g}.")
    else:
        say(
            f"Sanitized {result.images} images into {out} at sigma {result.sigma:g} in {result.seconds:.1f} s"
            f" ({result.images_per_second:.3g} images/s, {result.dtype} on {result.device}, {result.kernel} kernels)."
        )
    word = quoted(result.out)
    left_out = sum(result.quarantined.values())
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result.quarantined.items()))
        say(f"Left out {left_out}: {reasons}. To list them: dpclean quarantine {word}")
    if result.left_behind or result.hidden:
        say(f"Not images, not copied: {result.left_behind}; hidden, not looked at: {result.hidden}.")
    if result.not_finite_retried:
        say(f"Done again in float32, because half precision did not suffice: {result.not_finite_retried}.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    for page in result.report:
        say(f"To look at: {printable(page)}")
    say(f"Check the copy: cd {word} && sha256sum -c SHA256SUMS")
    say(f"Next: train on it as you would on the raw data, or: dpclean train {word} --holdout 0.1 --out model")


def _tell_dry_run(told: SanitizeDryRun) -> None:
    typer.echo(
        f"Would sanitize {told.listed} inputs ({told.kind}, {len(told.classes)} classes,"
        f" about {told.megapixels:g} megapixels) into {printable(told.out)}:"
        f" about {told.seconds:.0f} s and at most {told.bytes / 1e6:.0f} MB."
    )
    if told.unusable_in_sample:
        typer.echo(f"Of the first {told.sampled}, {told.unusable_in_sample} cannot be used.")
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
