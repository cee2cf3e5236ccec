"""`dpclean audit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpclean.cli.common import Config, Device, DryRun, Json, Overwrite, Quiet, Readers, Threads, tell
from dpclean.cli.panels import ATTACK, COMMON, DENOISER, EVASION, INPUT, NOISE, OUTPUT
from dpclean.cli.values import completing
from dpclean.errors import UsageError, printable

if TYPE_CHECKING:
    from dpclean.audit.evasion.options import EvasionKeywords
    from dpclean.audit.evasion.results import EvasionDryRun
    from dpclean.audit.options import AuditKeywords
    from dpclean.audit.results import AuditDryRun, AuditResult

PGD = "pgd"  # the attack at test time, which plants nothing
VICTIMS = ("victim", "extractor", "trainer", "surrogate", "surrogate_weights")
OF_TRAINING = ("raw", *VICTIMS, "holdout", "adaptive", "poisons", "setups", "generator", "poisons_from")
OF_EVASION = ("model", "norm", "steps", "draws", "votes", "certificate")


def audit(
    context: typer.Context,
    raw: Annotated[Path | None, typer.Argument(help="Images, as 'dpclean sanitize' takes them; read only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to make.", rich_help_panel=OUTPUT)] = Path("audit"),
    victim: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="frozen: a head on an extractor; fine-tuned: all weights of it go on learning; else a recipe of"
            " 'dpclean train' that learns from scratch.",
            rich_help_panel=INPUT,
            autocompletion=completing("frozen", "fine-tuned", "tiny", "fast", "resnet18", "torchvision:"),
        ),
    ] = "frozen",
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The network of a frozen or fine-tuned victim: a model of 'dpclean train' on other images,"
            " torchvision:NAME, cifar-resnet20, or efficientnet-lite0; @S: edge of the images.",
            rich_help_panel=INPUT,
            autocompletion=completing("efficientnet-lite0", "torchvision:"),
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With torchvision:NAME: its weights, safetensors.", rich_help_panel=INPUT),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option(
            metavar="CMD",
            help="Any program as the victim, with {data}, {test} and {out} in it, as for 'dpclean certify'.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The attacker's network, where he does not have the victim's: an extractor or a recipe, like that.",
            rich_help_panel=ATTACK,
            autocompletion=completing("efficientnet-lite0", "torchvision:", "tiny", "fast", "resnet18"),
        ),
    ] = None,
    surrogate_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of --surrogate, as --weights of --extractor.", rich_help_panel=ATTACK),
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
        int | None,
        typer.Option(metavar="N", help="Largest change of a pixel value, of 255 [16; pgd: 8].", rich_help_panel=ATTACK),
    ] = None,
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
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With guided-diffusion: a diffusers folder of a UNet2DModel with RAW's classes in their order.",
            rich_help_panel=ATTACK,
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
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|torchvision:NAME",
            help="With pgd: the model whose test images are changed, as 'dpclean train' wrote it; no RAW then.",
            rich_help_panel=EVASION,
        ),
    ] = None,
    norm: Annotated[
        str,
        typer.Option(
            metavar="linf|l2",
            help="With pgd: whether --eps bounds the change of each pixel value, or the length of all together.",
            rich_help_panel=EVASION,
            autocompletion=completing("linf", "l2"),
        ),
    ] = "linf",
    steps: Annotated[int, typer.Option(metavar="N", help="With pgd: of the descent.", rich_help_panel=EVASION)] = 40,
    draws: Annotated[
        int,
        typer.Option(
            metavar="N", help="With pgd: of the noise, for each gradient through it.", rich_help_panel=EVASION
        ),
    ] = 20,
    votes: Annotated[
        int,
        typer.Option(metavar="N", help="With pgd: draws of the noise that judge an image.", rich_help_panel=EVASION),
    ] = 100,
    certificate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CERT",
            help="With pgd: of 'dpclean certify --threat evasion' for this model, to be shown beside it and tested."
            " May be repeated.",
            rich_help_panel=EVASION,
        ),
    ] = None,
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
    dpclean audit --attack pgd --model ./model --test ./test --sigma 0.25 --out ./audit
    dpclean audit --list
    """
    if list_:
        _list(json)
        return
    if attack == PGD:
        _refuse(context, OF_TRAINING, "has no meaning with --attack pgd, which changes test images of one --model")
        attacked: EvasionKeywords = {
            "model": model,
            "weights": weights,
            "test": test,
            "norm": norm,
            "steps": steps,
            "draws": draws,
            "votes": votes,
            "targets": targets,
            "defence": tuple(defence or ("sanitized",)),
            "sigma": sigma,
            "denoiser": denoiser,
            "method": method,
            "certificate": tuple(certificate or ()),
            "seed": seed,
            "device": device,
            "workers": workers,
            "threads": threads,
            "overwrite": overwrite,
        }
        if eps is not None:
            attacked["eps"] = eps
        _at_test_time(out, attacked, dry_run=dry_run, json=json, quiet=quiet)
        return
    _refuse(context, OF_EVASION, "has a meaning with --attack pgd only")
    if poisons_from is not None:
        _refuse(context, ("attack", "eps", "poisons"), "has no meaning with --poisons-from, which brings its own")
    if setups is not None:
        _refuse(context, ("poisons",), "has no meaning with --setups, which names the images")
    if raw is None:
        raise UsageError("missing argument 'RAW'", "give a folder of images; --list names the attacks")
    from dpclean.audit import job
    from dpclean.progress import shown

    options: AuditKeywords = {
        "victim": victim,
        "extractor": extractor,
        "weights": weights,
        "trainer": trainer,
        "surrogate": surrogate,
        "surrogate_weights": surrogate_weights,
        "test": test,
        "holdout": holdout,
        "attack": attack,
        "adaptive": adaptive,
        "poisons": poisons,
        "targets": targets,
        "setups": setups,
        "generator": generator,
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
    if eps is not None:
        options["eps"] = eps
    if dry_run:
        tell(job.dry_run(raw, out, **options), _tell_dry_run, json=json)
        return
    with shown(quiet) as progress:
        result = job.audit(raw, out, progress=progress, **options)
    tell(result, _tell, json=json, quiet=quiet)


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """What was given of these."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            shown = "RAW" if name == "raw" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{shown} {why}", "leave it out")


def _at_test_time(out: Path, options: EvasionKeywords, *, dry_run: bool, json: bool, quiet: bool) -> None:
    from dpclean.audit.evasion import job
    from dpclean.progress import shown

    if dry_run:
        tell(job.dry_run(out, **options), _tell_dry_run_at_test_time, json=json)
        return
    with shown(quiet) as progress:
        result = job.audit(out, progress=progress, **options)
    tell(result, _tell_at_test_time, json=json, quiet=quiet)


def _list(json: bool) -> None:
    from dpclean.audit.attacks import ATTACKS
    from dpclean.audit.defences import DEFENCES
    from dpclean.audit.evasion import pgd
    from dpclean.cli import print_json

    kinds = {
        "attacks": [
            *((one.name, one.about, one.paper) for one in ATTACKS.values()),
            (pgd.NAME, pgd.ABOUT, pgd.PAPER),
        ],
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
    say(printable(result.headline))
    for row in result.rows:
        knows = "" if row["knows"] is None else f", the attacker knows {printable(row['knows'])}"
        counted = f"{row['succeeded']} of {row['trials'] - row['skipped']}"
        interval = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        say(
            f"  {printable(row['defence'])}, learned by {row['head']}{knows}: {counted} ({interval}),"
            f" without poison {row['control']} of {row['trials']}, accuracy {100 * row['accuracy']:.1f} %"
        )
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"To look at: {out}/report.html, which also says what an audit cannot show.")
    say("Next, what is proved for these data: dpclean certify RAW")


def _tell_at_test_time(result: AuditResult) -> None:
    say, out = typer.echo, printable(result.out)
    done = f"{out} is already complete" if result.already_complete else f"Audited in {result.seconds:.0f} s into {out}"
    say(f"{done}: {result.attack}, {result.targets} test images.")
    say(printable(result.headline))
    for row in result.rows:
        knows = "the model alone" if row["knows"] is None else "it too"
        counts = f"{row['attacked'][0]} of {row['images']} right under attack, {row['clean'][0]} without"
        if row["attacked_by_vote"] is not None:
            counts += f"; by vote {row['attacked_by_vote'][0]} and {row['clean_by_vote'][0]}"
        proved = "" if row["covered"] is None else f"; proved for {row['covered']}"
        say(f"  {printable(row['defence'])}, the attacker knows {knows}: {counts}{proved}")
    for warning in result.warnings:
        say(f"Note: {printable(warning)}.")
    say(f"To look at: {out}/report.html, which also says what an audit cannot show.")
    if all(row["covered"] is None for row in result.rows):
        say("Next, what is proved for this model: dpclean certify --threat evasion")


def _tell_dry_run_at_test_time(told: EvasionDryRun) -> None:
    typer.echo(
        f"Would attack {told.targets} of {told.test_images} test images, behind"
        f" {printable(', '.join(told.defences))}, into {printable(told.out)}: about {told.seconds:.0f} s."
    )
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")


def _tell_dry_run(told: AuditDryRun) -> None:
    typer.echo(
        f"Would try {told.attack} in {told.targets} trials, each with {told.poisons} of {told.images} images, behind"
        f" {printable(', '.join(told.defences))}, into {printable(told.out)}:"
        f" at most about {told.seconds:.0f} s."
    )
    for warning in told.warnings:
        typer.echo(f"Note: {printable(warning)}.")
    typer.echo("Nothing was written. Next: the same command without --dry-run.")
