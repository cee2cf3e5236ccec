"""`dpclean audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Device, DryRun, Json, Overwrite, Quiet, Readers, Threads, tell
from dpclean.cli.panels import ATTACK, COMMON, DENOISER, INPUT, NOISE, OUTPUT
from dpclean.cli.values import completing
from dpclean.errors import UsageError, printable

if TYPE_CHECKING:
    from dpclean.audit.options import AuditKeywords
    from dpclean.audit.results import AuditDryRun, AuditResult


def audit(
    raw: Annotated[Path | None, typer.Argument(help="Images, as 'dpclean sanitize' takes them; read only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)] = Path("audit"),
    victim: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="frozen: a head on an extractor; else a recipe of 'dpclean train' that learns from scratch.",
            rich_help_panel=INPUT,
            autocompletion=completing("frozen", "tiny", "fast", "resnet18", "torchvision:"),
        ),
    ] = "frozen",
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A frozen victim's network: a model of 'dpclean train' on other images, torchvision:NAME,"
            " cifar-resnet20, or efficientnet-lite0; @S: edge of the images.",
            rich_help_panel=INPUT,
            autocompletion=completing("efficientnet-lite0", "torchvision:"),
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With torchvision:NAME: its weights, safetensors.", rich_help_panel=INPUT),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Labelled images; some of them become targets.", rich_help_panel=INPUT)
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(metavar="P", help="Test on this share of RAW instead.", rich_help_panel=INPUT),
    ] = None,
    attack: Annotated[
        str, typer.Option(metavar="NAME", help="--list names them all.", rich_help_panel=ATTACK)
    ] = "bullseye-polytope",
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Try also attackers who know the noise level and the denoiser, but not the key.",
            rich_help_panel=ATTACK,
        ),
    ] = False,
    eps: Annotated[
        int, typer.Option(metavar="N", help="Largest change of a pixel value, of 255.", rich_help_panel=ATTACK)
    ] = 16,
    poisons: Annotated[
        int, typer.Option(metavar="N", help="Images that are changed for a target.", rich_help_panel=ATTACK)
    ] = 25,
    targets: Annotated[int, typer.Option(metavar="N", help="Attacks to try.", rich_help_panel=ATTACK)] = 20,
    setups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Targets and base images by name, in place of chance.", rich_help_panel=ATTACK
        ),
    ] = None,
    poisons_from: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Poisons made elsewhere, in place of an attack: of 'audit', or of the poisoning benchmark.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,NAME,...|CMD",
            help="Shown beside none; sanitized. --list names them all; or any program, as a command with {data} and"
            " {out} in it. May be repeated.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    sigma: Annotated[
        str, typer.Option(metavar="S,S,...", help="Noise levels to defend with.", rich_help_panel=NOISE)
    ] = "0.1,0.25",
    denoiser: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="natural, perceptual, a diffusers folder, or a hub id.",
            rich_help_panel=DENOISER,
            autocompletion=completing("natural", "perceptual"),
        ),
    ] = "natural",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="one-step, ddim:STEPS or sde:STEPS.",
            rich_help_panel=DENOISER,
            autocompletion=completing("one-step", "ddim:", "sde:"),
        ),
    ] = "one-step",
    seed: Annotated[
        int, typer.Option(metavar="N", help="Same seed, same targets and noise.", rich_help_panel=ATTACK)
    ] = 0,
    device: Device = "auto",
    workers: Readers = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Name attacks and defences with their papers.", rich_help_panel=COMMON)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Plant real attacks in a copy of your data and see what stops them. The same command again goes on.

    \b
    dpclean audit ./raw --test ./test --extractor ./model --sigma 0.1,0.25 --targets 20 --out ./audit
    dpclean audit --list
    """
    if list_:
        _list(json)
        return
    if raw is None:
        raise UsageError("missing argument 'RAW'", "give a folder of images; --list names the attacks")
    from dpclean.audit import job
    from dpclean.progress import shown

    options: AuditKeywords = {
        "victim": victim,
        "extractor": extractor,
        "weights": weights,
        "test": test,
        "holdout": holdout,
        "attack": attack,
        "adaptive": adaptive,
        "eps": eps,
        "poisons": poisons,
        "targets": targets,
        "setups": setups,
        "poisons_from": poisons_from,
        "defence": tuple(defence or ("sanitized",)),
        "sigma": sigma,
        "denoiser": denoiser,
        "method": method,
        "seed": seed,
        "device": device,
        "workers": workers,
        "threads": threads,
        "overwrite": overwrite,
    }
    if dry_run:
        tell(job.dry_run(raw, out, **options), _tell_dry_run, json=json)
        return
    with shown(quiet) as progress:
        result = job.audit(raw, out, progress=progress, **options)
    tell(result, _tell, json=json, quiet=quiet)


def _list(json: bool) -> None:
    from dpclean.audit.attacks import ATTACKS
    from dpclean.audit.defences import DEFENCES
    from dpclean.cli import print_json

    kinds = {
        "attacks": [(one.name, one.about, one.paper) for one in ATTACKS.values()],
        "defences": [(one.asked_as(), one.about, one.paper) for one in DEFENCES.values()],
    }
    if json:
        names = ("name", "about", "paper")
        listed = {kind: [dict(zip(names, one, strict=True)) for one in known] for kind, known in kinds.items()}
        print_json({"format": 1, "command": "audit", "list": True, **listed})
        return
    for kind, known in kinds.items():
        typer.echo(f"{kind.capitalize()}:")
        for name, about, paper in known:
            typer.echo(f"  {name}: {about}{f' ({paper})' if paper else ''}")


def _tell(result: AuditResult) -> None:
    say, out = typer.echo, printable(result.out)
    done = f"{out} is already complete" if result.already_complete else f"Audited in {result.seconds:.0f} s into {out}"
    say(f"{done}: {result.attack}, {result.targets} trials.")
    say(result.headline)
    for row in result.rows:
        knows = "" if row["crafted_for"] is None else f", the attacker knows sigma {row['crafted_for']:g}"
        counted = f"{row['succeeded']} of {row['trials'] - row['skipped']}"
        interval = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        say(
            f"  {row['defence']}, learned by {row['head']}{knows}: {counted} ({interval}),"
            f" without poison {row['control']} of {row['trials']}, accuracy {100 * row['accuracy']:.1f} %"
        )
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"To look at: {out}/report.html, which also says what an audit cannot show.")
    say("Next, what is proved for these data: dpclean certify RAW")


def _tell_dry_run(told: AuditDryRun) -> None:
    typer.echo(
        f"Would try {told.attack} in {told.targets} trials, each with {told.poisons} of {told.images} images, behind"
        f" {', '.join(told.defences)}, into {printable(told.out)}:"
        f" at most about {told.seconds:.0f} s."
    )
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
