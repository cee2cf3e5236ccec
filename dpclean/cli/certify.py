"""`dpclean certify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpclean.cli.common import BatchSize, Config, Device, Dtype, Json, Overwrite, Quiet
from dpclean.errors import UsageError, printable

if TYPE_CHECKING:
    from dpclean.certify.results import CertifyResult, Trial


def certify(
    clean: Annotated[
        Path,
        typer.Argument(help="What 'dpclean sanitize' wrote; or raw data, with --sigma.", envvar="DPCLEAN_CLEAN"),
    ] = Path("clean"),
    runs: Annotated[
        int, typer.Option(envvar="DPCLEAN_RUNS", metavar="N", help="Models to train; more runs, larger radii.")
    ] = 1000,
    out: Annotated[Path, typer.Option(envvar="DPCLEAN_OUT", help="Folder to make.")] = Path("certificate"),
    raw: Annotated[
        Path | None, typer.Option(envvar="DPCLEAN_RAW", help="The raw data, where they are not where CLEAN says.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(envvar="DPCLEAN_TEST", help="Folder or shards with the points to vote on.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            envvar="DPCLEAN_HOLDOUT", metavar="SHARE", help="Vote on this share of RAW and do not train on it [0.1]."
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(envvar="DPCLEAN_SIGMA", metavar="S", help="Noise on the [0, 1] pixel scale, for raw data."),
    ] = None,
    threat: Annotated[
        str,
        typer.Option(
            envvar="DPCLEAN_THREAT",
            metavar="clean-test|noised-test",
            help="Whether only training images may be changed, or the test image too.",
        ),
    ] = "clean-test",
    bound: Annotated[
        str | None,
        typer.Option(
            envvar="DPCLEAN_BOUND",
            metavar="multiclass|union|cohen|anytime",
            help="From votes to radius; fixed before run 1 [multiclass].",
        ),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(envvar="DPCLEAN_ALPHA", metavar="A", help="Probability that a claim may be false [0.001]."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(envvar="DPCLEAN_FAMILY", metavar="point|all", help="Alpha for each point, or for all [point]."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(envvar="DPCLEAN_RECIPE", metavar="NAME", help="How each model is trained.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(envvar="DPCLEAN_INIT", metavar="FILE|DIR", help="Start from these weights, fixed beforehand."),
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", envvar="DPCLEAN_FREEZE", help="With --init: only the last layer learns.")
    ] = False,
    trainer: Annotated[
        str | None,
        typer.Option(
            envvar="DPCLEAN_TRAINER",
            metavar="CMD",
            help="Any program as trainer, with {data}, {test} and {out} in it; it writes {out}/predictions.tsv.",
        ),
    ] = None,
    run_timeout: Annotated[
        float,
        typer.Option(envvar="DPCLEAN_RUN_TIMEOUT", metavar="SECONDS", help="With --trainer: a longer run has failed."),
    ] = 3600.0,
    keep_models: Annotated[
        bool,
        typer.Option(
            "--keep-models", envvar="DPCLEAN_KEEP_MODELS", help="Keep all models, so that 'predict' can vote."
        ),
    ] = False,
    votes: Annotated[
        Path | None,
        typer.Option(envvar="DPCLEAN_VOTES", metavar="FILE", help="No runs: the certificate of votes cast elsewhere."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(envvar="DPCLEAN_CLASSES", metavar="C", help="With --votes: how many classes there are."),
    ] = None,
    tau: Annotated[
        str | None,
        typer.Option(
            envvar="DPCLEAN_TAU", metavar="T", help="With --votes: distance of the noise from a perfect Gaussian [0]."
        ),
    ] = None,
    selection_runs: Annotated[
        int | None,
        typer.Option(envvar="DPCLEAN_SELECTION_RUNS", metavar="N", help="With --votes and cohen: the first N select."),
    ] = None,
    exploratory: Annotated[
        bool,
        typer.Option(
            "--exploratory", envvar="DPCLEAN_EXPLORATORY", help="With --votes: read them another way; proves nothing."
        ),
    ] = False,
    denoiser: Annotated[
        str | None,
        typer.Option(envvar="DPCLEAN_DENOISER", metavar="ID|DIR", help="Another denoiser than that of CLEAN."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    workers: Annotated[
        int | None, typer.Option(envvar="DPCLEAN_WORKERS", metavar="N", help="Runs at once [one a core or GPU].")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(envvar="DPCLEAN_LIMIT", metavar="N", help="Only the first N inputs of raw data.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(envvar="DPCLEAN_SEED", metavar="N", help="Derive the noise key from a number: not secret."),
    ] = None,
    seed_chosen_after_data: Annotated[
        bool,
        typer.Option(
            "--seed-chosen-after-data",
            envvar="DPCLEAN_SEED_CHOSEN_AFTER_DATA",
            help="Nobody who made the data could know the seed.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="DPCLEAN_DRY_RUN", help="Do one run, time it, and write nothing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Train many models on freshly noised and denoised copies, and prove from their votes what no poisoner can change.

    The same command again goes on where it stopped; given twice at once, both share the runs.

    \b
    dpclean certify --runs 1000
    dpclean certify ./clean --test ./test --runs 1000 --bound anytime
    dpclean certify ./raw --sigma 0.25 --test ./test --trainer "python train.py {data} {test} {out}"
    dpclean certify --votes votes.safetensors --classes 10 --sigma 0.5 --out certificate
    """
    from dpclean.cli import print_json
    from dpclean.cli.progress import said, shown

    only_votes: dict[str, Any] = {
        "classes": classes,
        "tau": tau,
        "selection_runs": selection_runs,
        "exploratory": exploratory or None,
    }
    statistics: dict[str, Any] = {"bound": bound, "alpha": alpha, "family": family}
    if votes is not None:
        from dpclean.certify.external import certify_votes

        result = certify_votes(
            votes, out, sigma=sigma, overwrite=overwrite, **{**statistics, **only_votes, "exploratory": exploratory}
        )
        print_json(result.as_dict()) if json else _tell(result)
        return
    if given := [name for name, value in only_votes.items() if value is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} has a meaning with --votes only", "leave it out")
    options: dict[str, Any] = {
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
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "workers": workers,
        "limit": limit,
        "seed": seed,
        "seed_chosen_after_data": seed_chosen_after_data,
        "overwrite": overwrite,
        **{name: value for name, value in statistics.items() if value is not None},
    }
    if dry_run:
        from dpclean.certify.trial import trial as look_ahead

        trial = look_ahead(clean, out, **options)
        print_json(trial.as_dict()) if json else _tell_trial(trial)
        return
    from dpclean.certify import job

    with shown(quiet) as progress:
        result = job.certify(clean, out, progress=progress, say=said(quiet), **options)
    print_json(result.as_dict()) if json else _tell(result)


def _tell(result: CertifyResult) -> None:
    say, out = typer.echo, printable(result.out)
    if result.already_complete:
        say(f"{out} is already complete: {result.runs} runs.")
    exploratory = result.kind == "exploratory"
    verb = "would be certified (exploratory: this proves nothing)" if exploratory else "certified"
    say(
        f"{result.certified} of {result.points} test points {verb} with {result.runs} runs:"
        f" largest radius {result.largest_radius}, median {result.median_radius}, ceiling {result.ceiling}."
    )
    if result.correct is not None:
        say(f"{result.correct} of {result.labelled} labelled points have the right class and a radius.")
    if result.failed:
        say(f"{result.failed} runs failed and count as votes for nobody.")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    if not exploratory:
        say("A radius is a distance over all training images together; report.html says what it covers and what not.")
    say(f"To look at: {out}/report.html")
    say(f"Next: 'dpclean verify {out}' recomputes all of it from the votes.")


def _tell_trial(trial: Trial) -> None:
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in trial.seconds_by_part.items())
    typer.echo(
        f"Would train {trial.runs} models on {trial.images} images in {trial.classes} classes at sigma {trial.sigma}"
        f" and vote on {trial.points} points into {printable(trial.out)}: about {trial.seconds:.0f} s with"
        f" {trial.workers} at once, at most {trial.bytes / 1e6:.0f} MB. One run: {parts}."
    )
    typer.echo(f"When all runs agree on a point, its radius is {trial.ceiling}: no accuracy gets beyond that.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
