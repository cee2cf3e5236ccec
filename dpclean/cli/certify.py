"""`dpclean certify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.certificate.bounds import BOUNDS, DEFAULT_BOUND
from dpclean.certificate.partitions import ELECTIONS, RUNOFF, WORDS
from dpclean.certificate.threats import DEFAULT_THREAT, EVASION, THREATS
from dpclean.cli.common import BatchSize, Config, Device, Dtype, Json, Overwrite, Quiet, tell
from dpclean.cli.panels import COMMON, INPUT, MACHINE, NOISE, OUTPUT, STATEMENT, TRAINING, VOTES
from dpclean.cli.values import completing
from dpclean.errors import UsageError, printable, quoted

if TYPE_CHECKING:
    from dpclean.certify.options import CertifyKeywords
    from dpclean.certify.results import CertifyDryRun, CertifyResult


WITHOUT_MEANING = (  # beside --votes, which brings all runs along; the last four only say where and how fast
    "clean", "raw", "test", "holdout", "recipe", "init", "freeze", "trainer", "run_timeout", "keep_models", "denoiser",
    "method", "limit", "seed", "seed_chosen_after_data", "subsample", "features", "test_features",
    "extractor", "weights", "partitions", "election", "partition_by", "model", "local_smoothing", "dry_run",
    "device", "dtype", "batch_size", "workers",
)  # fmt: skip


def certify(
    context: typer.Context,
    clean: Annotated[
        Path,
        typer.Argument(help="What 'dpclean sanitize' wrote; or raw data, with --sigma."),
    ] = Path("clean"),
    runs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Models to train; more runs, larger radii [1000].", rich_help_panel=STATEMENT),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)] = Path("certificate"),
    raw: Annotated[
        Path | None, typer.Option(help="The raw data, where they are not where CLEAN says.", rich_help_panel=INPUT)
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Folder or shards with the points to vote on.", rich_help_panel=INPUT)
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Vote on this share of RAW and do not train on it [0.1].", rich_help_panel=INPUT
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(metavar="S", help="Noise on the [0, 1] pixel scale, for raw data.", rich_help_panel=NOISE),
    ] = None,
    threat: Annotated[
        str,
        typer.Option(
            metavar="|".join(THREATS),
            help="What may be changed: training images, the test image with them, or under evasion it alone.",
            rich_help_panel=STATEMENT,
            autocompletion=completing(*THREATS),
        ),
    ] = DEFAULT_THREAT,
    bound: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(BOUNDS),
            help=f"From votes to radius; fixed before run 1 [{DEFAULT_BOUND}].",
            rich_help_panel=STATEMENT,
            autocompletion=completing(*BOUNDS),
        ),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(metavar="A", help="Probability that a claim may be false [0.001].", rich_help_panel=STATEMENT),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="point|all",
            help="Alpha for each point, or for all [point].",
            rich_help_panel=STATEMENT,
            autocompletion=completing("point", "all"),
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How each model is trained.",
            rich_help_panel=TRAINING,
            autocompletion=completing("tiny", "fast", "resnet18", "torchvision:"),
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="FILE|DIR", help="Start from these weights, fixed beforehand.", rich_help_panel=TRAINING),
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="With --init: only the last layer learns.", rich_help_panel=TRAINING)
    ] = False,
    trainer: Annotated[
        str | None,
        typer.Option(
            metavar="CMD",
            help="Any program as trainer, with {data}, {test} and {out} in it; it writes {out}/predictions.tsv.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    run_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="With --trainer: a longer run has failed; on a share or a part of the images it stops the job.",
            rich_help_panel=TRAINING,
        ),
    ] = 3600.0,
    keep_models: Annotated[
        bool,
        typer.Option("--keep-models", help="Keep all models, so that 'predict' can vote.", rich_help_panel=OUTPUT),
    ] = False,
    votes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="No runs: the certificate of votes cast elsewhere.", rich_help_panel=VOTES),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(metavar="C", help="With --votes: how many classes there are.", rich_help_panel=VOTES),
    ] = None,
    tau: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="With --votes: distance of the noise from a perfect Gaussian [0].", rich_help_panel=VOTES
        ),
    ] = None,
    selection_runs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --votes, where some runs select: how many, the first ones.", rich_help_panel=VOTES
        ),
    ] = None,
    subsample_word: Annotated[
        int | None,
        typer.Option(
            metavar="U",
            help="With --votes: each run took every image with probability U / 2^32.",
            rich_help_panel=VOTES,
        ),
    ] = None,
    exploratory: Annotated[
        bool,
        typer.Option(
            "--exploratory", help="With --votes: read them another way; proves nothing.", rich_help_panel=VOTES
        ),
    ] = False,
    denoiser: Annotated[
        str | None,
        typer.Option(
            metavar="ID|DIR",
            help="Another denoiser than that of CLEAN.",
            rich_help_panel=NOISE,
            autocompletion=completing("natural", "perceptual"),
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="one-step|ddim:STEPS|sde:STEPS",
            help="Another method than that of CLEAN.",
            rich_help_panel=NOISE,
            autocompletion=completing("one-step", "ddim:4", "sde:8"),
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Runs at once [one a core or GPU].", rich_help_panel=MACHINE)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N inputs of raw data.", rich_help_panel=INPUT)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Derive the noise key from a number: not secret.", rich_help_panel=NOISE),
    ] = None,
    seed_chosen_after_data: Annotated[
        bool,
        typer.Option(
            "--seed-chosen-after-data",
            help="Nobody who made the data could know the seed.",
            rich_help_panel=NOISE,
        ),
    ] = False,
    subsample: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Each run takes every image with this probability: claims on whole images, also at sigma 0.",
            rich_help_panel=STATEMENT,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="No images: rows of features to train on, a safetensors file.", rich_help_panel=INPUT
        ),
    ] = None,
    test_features: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --features: the rows to vote on.", rich_help_panel=INPUT),
    ] = None,
    with_images: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="With a share and noise: also the radius beside so many changed images, such as 1,5,10.",
            rich_help_panel=STATEMENT,
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="One model a part of the images, K in all: claims on whole images that hold without chance.",
            rich_help_panel=STATEMENT,
        ),
    ] = None,
    election: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ELECTIONS),
            help=f"With --partitions: how the models elect a class [{RUNOFF}].",
            rich_help_panel=STATEMENT,
            autocompletion=completing(*ELECTIONS),
        ),
    ] = None,
    partition_by: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(WORDS),
            help="With --partitions: what decides an image's part [of files name, else content].",
            rich_help_panel=STATEMENT,
            autocompletion=completing(*WORDS),
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Train heads on what this frozen network makes of the images: as 'dpclean features' has it.",
            rich_help_panel=TRAINING,
            autocompletion=completing("efficientnet-lite0", "efficientnet-lite0@112", "torchvision:"),
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --extractor or --model torchvision:NAME: its weights, safetensors.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|torchvision:NAME",
            help="With --threat evasion: the model that votes, as 'dpclean train' wrote it; nothing is trained.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    local_smoothing: Annotated[
        str | None,
        typer.Option(
            metavar="M:S",
            help="With --model: a vote is the mean of M predictions, each with noise of size S on the denoised image;"
            " a model that did not learn from such noise may lose much by it.",
            rich_help_panel=STATEMENT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do one run, time it, and write nothing.", rich_help_panel=COMMON)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Train many models on freshly noised and denoised copies, and prove from their votes what no poisoner can change.

    With --threat evasion one model votes on freshly noised and denoised test images: about attacks on these instead.

    The same command again goes on where it stopped; given twice at once, both share the runs.

    \b
    dpclean certify --runs 1000
    dpclean certify ./clean --test ./test --runs 1000 --bound anytime
    dpclean certify ./raw --sigma 0.25 --test ./test --trainer "python train.py {data} {test} {out}"
    dpclean certify ./raw --partitions 50 --test ./test
    dpclean certify --threat evasion --model ./model --test ./test --sigma 0.25 --runs 10000
    dpclean certify --votes votes.safetensors --classes 10 --sigma 0.5 --out certificate
    """
    from dpclean.progress import said, shown

    if votes is not None:
        from dpclean.certify.external_votes import certify_votes

        _refuse_what_votes_bring_along(context)
        result = certify_votes(
            votes,
            out,
            sigma=sigma,
            runs=runs,
            threat=threat if _given(context, "threat") else None,
            bound=bound,
            alpha=alpha,
            family=family,
            classes=classes,
            tau=tau,
            selection_runs=selection_runs,
            subsample_word=subsample_word,
            with_images=with_images,
            exploratory=exploratory,
            overwrite=overwrite,
        )
        tell(result, _tell, json=json, quiet=quiet)
        return
    if features is not None and _given(context, "clean"):
        raise UsageError("CLEAN is about images, and --features are none", "leave it out")
    if threat == EVASION and _given(context, "clean"):
        raise UsageError("CLEAN is what is trained on, and under --threat evasion nothing is trained", "leave it out")
    _refuse_what_needs_votes(
        classes=classes,
        tau=tau,
        selection_runs=selection_runs,
        subsample_word=subsample_word,
        exploratory=exploratory or None,
    )
    options: CertifyKeywords = {
        "runs": runs,
        "raw": raw,
        "test": test,
        "holdout": holdout,
        "sigma": sigma,
        "threat": threat,
        "recipe": recipe,
        "init": init,
        "freeze": freeze,
        "trainer": trainer,
        "run_timeout": run_timeout,
        "keep_models": keep_models,
        "denoiser": denoiser,
        "method": method,
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "workers": workers,
        "limit": limit,
        "seed": seed,
        "seed_chosen_after_data": seed_chosen_after_data,
        "alpha": alpha,
        "bound": bound,
        "family": family,
        "subsample": subsample,
        "features": features,
        "test_features": test_features,
        "extractor": extractor,
        "weights": weights,
        "with_images": with_images,
        "partitions": partitions,
        "election": election,
        "partition_by": partition_by,
        "model": model,
        "local_smoothing": local_smoothing,
        "overwrite": overwrite,
    }
    if dry_run:
        from dpclean.certify.dry_run import dry_run as look_ahead

        tell(look_ahead(clean, out, say=said(quiet), **options), _tell_dry_run, json=json)
        return
    from dpclean.certify import job

    with shown(quiet) as progress:
        result = job.certify(clean, out, progress=progress, say=said(quiet), **options)
    tell(result, _tell, json=json, quiet=quiet)


def _refuse_what_votes_bring_along(context: typer.Context) -> None:
    if ignored := [name for name in WITHOUT_MEANING if _given(context, name)]:
        if ignored[0] == "subsample":
            raise UsageError(
                "--subsample is what runs are to take, and those of --votes are done",
                "give the share that they took with --subsample-word, which is it times 2^32",
            )
        named = "CLEAN" if ignored[0] == "clean" else f"--{ignored[0].replace('_', '-')}"
        raise UsageError(f"{named} has no meaning with --votes, whose runs are done", "leave it out")


def _refuse_what_needs_votes(**options: object) -> None:
    if given := [name.replace("_", "-") for name, value in options.items() if value is not None]:
        raise UsageError(f"--{given[0]} has a meaning with --votes only", "leave it out")


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was given for this command: how fast to work may be set for all of them."""
    source = context.get_parameter_source(name)
    everywhere = name in WITHOUT_MEANING[-4:] and source is not None and source.name == "ENVIRONMENT"
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP") and not everywhere


def _tell(result: CertifyResult) -> None:
    say, out = typer.echo, printable(result.out)
    if result.already_complete:
        say(f"{out} is already complete: {result.runs} runs.")
    exploratory = result.kind == "exploratory"
    verb = "would be certified (exploratory: this proves nothing)" if exploratory else "certified"
    reach = f"largest radius {result.largest_radius}, median {result.median_radius}, ceiling {result.ceiling}"
    if result.images is not None:
        reach = "against whole images" + ("" if float(result.ceiling) == 0 else f"; {reach}")
    took = "" if result.members is None else f", each on {result.members}"
    models = (
        f"{result.runs} runs{took}" if result.partitions is None else f"a model for each of {result.partitions} parts"
    )
    say(f"{result.certified} of {result.points} test points {verb} with {models}: {reach}.")
    if result.headline is not None:
        say(result.headline)
    elif result.correct is not None:
        say(f"{result.correct} of {result.labelled} labelled points have the right class and a radius.")
    if result.failed:
        what = "failed" if result.images is None else "took too little to train on, or failed,"
        say(f"{result.failed} runs {what} and count as votes for nobody.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    if not exploratory and float(result.ceiling) > 0:
        what = "from one test image" if result.threat == EVASION else "over all training images together"
        say(f"A radius is a distance {what}; report.html says what it covers and what not.")
    say(f"To look at: {out}/report.html")
    say(f"Next, to recompute all of it from the votes: dpclean verify {quoted(result.out)}")


def _tell_dry_run(told: CertifyDryRun) -> None:
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in told.seconds_by_part.items())
    what = f"train {told.runs} models on {told.images} images in {told.classes} classes at sigma {told.sigma} and vote"
    if not told.images:
        what = f"let one model vote {told.runs} times in {told.classes} classes at sigma {told.sigma}"
    typer.echo(
        f"Would {what} on {told.points} points into {printable(told.out)}: about {told.seconds:.0f} s with"
        f" {told.workers} at once, at most {told.bytes / 1e6:.0f} MB. One run: {parts}."
    )
    if told.members is not None and told.most_images is not None:
        inserted, changed, missing = told.most_images.values()
        typer.echo(
            f"A run takes {told.members:,.1f} of the images on average, with a standard deviation of"
            f" {told.spread:,.1f}. When all runs agree on a point, up to {inserted:,} images may have been put in, or"
            f" {changed:,} changed, or {missing:,} taken away: no accuracy gets beyond that."
        )
    if float(told.ceiling) > 0:
        typer.echo(f"When all runs agree on a point, its radius is {told.ceiling}: no accuracy gets beyond that.")
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
