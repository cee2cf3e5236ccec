"""The story of one `audit` command: find what is there, begin or resume, try each target, finish."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Unpack

import msgspec

from dpclean import __version__
from dpclean.audit.attacks.informed import Informed
from dpclean.audit.attacks.surrogate import Surrogate
from dpclean.audit.defences import find_defences, make_defences
from dpclean.audit.defences.defence import Defence, Setting
from dpclean.audit.estimate import seconds_of
from dpclean.audit.experiment import Experiment, Foe, Outcome
from dpclean.audit.inputs import AuditInputs, read_inputs
from dpclean.audit.machine import claimed, environment_of, stopping
from dpclean.audit.options import AuditKeywords, AuditOptions
from dpclean.audit.page import PICTURED, SHOWN, Shown, write_page
from dpclean.audit.poisons import (
    TRIGGER_NAME,
    Poison,
    Poisons,
    folder_name,
    read_asked,
    read_bases,
    read_pixels,
    write_poisons,
)
from dpclean.audit.results import (
    NAME,
    AuditDryRun,
    AuditResult,
    Made,
    Report,
    doubts,
    headline,
    read_report,
    rows_of,
)
from dpclean.audit.trials import asked
from dpclean.audit.victims.victim import Victim
from dpclean.denoise.loading import find_denoiser
from dpclean.device import choose_device
from dpclean.errors import Diverged, DpcleanError, InternalError, Interrupted
from dpclean.jobs.checks import given_path, options_of
from dpclean.jobs.durable import sealed, unsealed, write_durably
from dpclean.jobs.job import COMPLETE, Call, Hopeless, Job, Tell, run
from dpclean.jobs.record import Json, Record
from dpclean.jobs.tasks import Tasks
from dpclean.noise.keys import key_from_seed
from dpclean.progress import Pace, Progress, Show
from dpclean.threads import computing_as_begun
from dpclean.train.trainer import number_of
from dpclean.versioned import decoded, encoded

PAGE_NAME, POISONS_NAME = "report.html", "poisons"


def audit(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str] = "audit",
    *,
    progress: Show | bool | None = None,
    **options: Unpack[AuditKeywords],
) -> AuditResult:
    """Plant attacks in a copy of RAW and see what stops them; the same call again goes on, or finds OUT complete.

    RAW is read only, and poisons are put in a copy in memory. options: the fields of `AuditOptions`. Raises UsageError,
    InputError, SetupError, ConflictError, Diverged, or Interrupted after a signal, each with a remedy.
    """
    chosen = options_of(AuditOptions, "audit", options)
    return run(AuditJob(Path(raw), Path(out), chosen), overwrite=chosen.overwrite, progress=progress)


def dry_run(
    raw: str | os.PathLike[str], out: str | os.PathLike[str] = "audit", **options: Unpack[AuditKeywords]
) -> AuditDryRun:
    """What `audit` with the same arguments would do, from a few images and steps; writes nothing."""
    return AuditJob(Path(raw), Path(out), options_of(AuditOptions, "audit", options)).look_ahead()


class AuditJob(Job[AuditResult]):
    kind = "audit"
    marks = (NAME,)
    shared = True

    def __init__(self, raw: Path, out: Path, options: AuditOptions) -> None:
        super().__init__(out)
        self.raw = given_path(raw).resolve()
        self.options = options
        self.device = choose_device(options.device)
        self.check: Callable[[], None] = lambda: None  # called now and then; raises to stop

    @cached_property
    def found(self) -> AuditInputs:
        return read_inputs(self.raw, self.options, self.device)

    @cached_property
    def defences(self) -> list[Defence]:
        o = self.options
        found = self.found
        setting = Setting(
            sigmas=o.sigmas,
            denoiser=o.denoiser,
            method=o.method,
            device=o.device,
            key=key_from_seed(o.seed, self.kind),
            poisons=max(len(trial.bases) for trial in found.trials),
            asked=sum(len(asked(trial, found.test, found.eligible)) for trial in found.trials),
            victim=found.victim,
        )
        return make_defences(o.defences, setting)

    def foes(self, guess: Victim) -> list[Foe]:
        """All attackers. guess: what they take the victim for."""
        key, seed = key_from_seed(self.options.seed, "audit attacker"), number_of(self.options.seed, "attacker")

        def check() -> None:
            self.check()

        foes = [Foe(None, Surrogate(guess, self.found.raw, seed=seed, check=check), self.defences)]
        for defence in self.defences if self.options.adaptive else ():
            sight = defence.seen_through(key)
            if sight is not None:
                informed = Informed(guess, self.found.raw, sight, seed=seed, check=check)
                foes.append(Foe(defence.sigma, informed, [defence], defence.label))
        return foes

    def experiment(self, victim: Victim) -> Experiment:
        found, o = self.found, self.options
        return Experiment(
            found.raw, found.test, found.eligible, victim, found.trials, found.attack, eps=found.eps, seed=o.seed
        )

    # -- what a job is asked for

    def inputs(self) -> list[str | os.PathLike[str] | None]:
        o = self.options
        networks = [o.extractor, o.weights, o.surrogate, o.surrogate_weights]
        given = [self.raw, o.test, *networks, o.setups, o.generator, o.poisons_from, o.denoiser]
        return [*given, *(path for asked in find_defences(o.defences) for path in asked.kind.reads(asked.argument))]

    def parameters(self) -> Json:
        o, found = self.options, self.found
        return {
            "raw": found.raw_digest,
            "test": found.test_digest,
            **found.victim.parameters(),
            **({} if found.guess is found.victim else {"surrogate": found.guess.parameters()}),
            "attack": found.attack.name,
            **found.attack.parameters(),
            "adaptive": o.adaptive,
            "eps": found.eps,
            "trials": found.trials_digest,
            **({} if found.poisons_digest is None else {"poisons": found.poisons_digest}),
            "defences": {defence.label: defence.parameters() for defence in self.defences},
            "denoiser": find_denoiser(o.denoiser).digests(),
            "method": o.method,
            "seed": o.seed,
        }

    def environment(self) -> Json:
        return environment_of(self.device)

    def made_with(self) -> Json:
        return read_report(self.out, Made).parameters

    def ready(self, record: Record | None) -> AbstractContextManager[object]:
        return computing_as_begun(record.environment if record else None, self.options.threads)

    def begin(self) -> Json:
        return {}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        tasks = Tasks(self.staging.work)
        tasks.make_folders()
        total = len(self.found.trials)
        done = total - len(tasks.missing(total))
        tell(Progress(done, total, "targets", None, "each image is read behind each defence"))
        self.check = stopping(stop, lambda: f"stopped after {done} of {total} targets, saved")
        experiment, foes = self.experiment(self.found.victim), self.foes(self.found.guess)
        try:
            if done < total:
                experiment.prepare(self.defences, self.check)
            pace = Pace(done)
            with claimed(tasks, total, still=lambda: self.staging.begun() is not None, check=self.check) as numbers:
                for number in numbers:
                    tasks.finish(number, sealed(encoded(self._tried(experiment, foes, number))))
                    done = total - len(tasks.missing(total))
                    tell(Progress(done, total, "targets", pace.seconds_left(done, total)))
        except DpcleanError as error:
            begun = isinstance(error, Interrupted | InternalError) or tasks.done()
            if isinstance(error, Diverged) or not begun:  # nothing is lost, and another command may do better
                raise Hopeless(error) from error
            raise
        return True

    def _tried(self, experiment: Experiment, foes: Sequence[Foe], number: int) -> Outcome:
        """One trial, its poisons saved."""
        trial, found = self.found.trials[number - 1], self.found
        asked_class = trial.source_class if trial.target is None else int(found.test.labels[trial.target])
        craftings, verdicts = [], []
        for foe in foes:
            crafted, crafting = experiment.crafted(number, trial, foe, self.check)
            verdicts += experiment.verdicts(number, trial, foe, crafted, self.check)
            craftings.append(crafting)
            first, trigger = found.test.pixels[experiment.asked(trial)[0]], crafted.trigger
            told = Poisons(
                target=None if trial.target is None else found.test.names[trial.target],
                target_class=None if asked_class is None else found.raw.classes[asked_class],
                poison_class=found.raw.classes[trial.poison_class],
                poisons=[
                    Poison(
                        f"{place:03d}.png",
                        found.raw.names[base],
                        int(found.raw.indices[base]),
                        None if crafted.bases is None else f"{place:03d}-base.png",
                    )
                    for place, base in enumerate(trial.bases)
                ],
                settings={
                    "attack": self.found.attack.name,
                    **found.attack.parameters(),
                    "eps": found.eps,
                    "crafted_for_sigma": foe.crafted_for,
                    "crafted_for": foe.knows,
                    **found.victim.told(),
                    **({} if found.guess is found.victim else {"surrogate": found.guess.about}),
                    "seed": self.options.seed,
                },
                trigger=None if trigger is None else trigger.told() | {"file": TRIGGER_NAME},
            )
            folder = self.staging.work / POISONS_NAME / folder_name(number, foe.knows)
            if trigger is None:
                write_poisons(folder, told, crafted.pixels, first, bases=crafted.bases)
            else:
                write_poisons(folder, told, crafted.pixels, trigger.on(first), trigger.array, crafted.bases)
        return Outcome(trial, craftings, verdicts)

    def save(self, record: Record) -> None:
        found, partial, tasks = self.found, self.staging.partial, Tasks(self.staging.work)
        files = [tasks.path(number) for number in range(1, len(found.trials) + 1)]
        outcomes = [msgspec.convert(decoded(unsealed(file)), Outcome) for file in files]
        made = self.staging.work / POISONS_NAME
        if made.exists():  # else a save that was cut off has moved them
            made.rename(partial / POISONS_NAME)
        rows = rows_of(outcomes)
        report = Report(
            tool=f"dpclean {__version__}",
            headline=headline(rows, trigger=self.found.attack.has_trigger),
            attack=self.found.attack.name,
            paper=self.found.attack.paper,
            rows=rows,
            trials=outcomes,
            classes=list(found.raw.classes),
            images=len(found.raw),
            test_images=len(found.test),
            victim=found.victim.about,
            remarks=found.remarks + doubts(rows, len(found.raw.classes)),
            parameters=record.parameters,
            environment=record.environment,
        )
        numbers = range(1, min(PICTURED, len(found.trials)) + 1)
        attackers = [crafting.knows for crafting in outcomes[0].craftings]
        shown = [self._shown(number, knows) for number in numbers for knows in attackers]
        write_page(partial / PAGE_NAME, report, self.found.attack, found.victim, self.defences, shown)
        write_durably(partial / NAME, encoded(report))

    def _shown(self, number: int, knows: str | None) -> Shown:
        """What the page shows of a trial, from the poisons as they were saved."""
        trial, found = self.found.trials[number - 1], self.found
        folder = self.staging.partial / POISONS_NAME / folder_name(number, knows)
        poisons, places = read_pixels(folder, SHOWN), trial.bases[:SHOWN]
        experiment = self.experiment(found.victim)
        said = f"{found.test.names[experiment.asked(trial)[0]]}{' with the trigger' if trial.target is None else ''}"
        return Shown(
            caption=f"{said} as {found.raw.classes[trial.poison_class]}"
            + ("" if knows is None else f", by an attacker who knows {knows}"),
            asked=read_asked(folder),
            bases=read_bases(folder, SHOWN) or [found.raw.pixels[place] for place in places],
            poisons=poisons,
            behind=[
                experiment.defended(defence, poisons, places, number) for defence in self.defences if defence.changes
            ],
        )

    # -- tell

    def result(self, call: Call) -> AuditResult:
        report = read_report(self.out, Report)
        return AuditResult.of(self.out, report, len(report.trials), call)

    # -- the look ahead

    def look_ahead(self) -> AuditDryRun:
        """A few images go through each defence, and a few steps of crafting are done and timed."""
        complete = self.foresee(overwrite=self.options.overwrite)
        found = self.found
        with self.ready(None):
            sketch, rough = found.victim.sketch(), found.guess.sketch()
            seconds = seconds_of(self.experiment(sketch), self.foes(rough), found.victim, found.guess)
        return AuditDryRun(
            out=str(self.out),
            attack=found.attack.name,
            images=len(found.raw),
            classes=list(found.raw.classes),
            test_images=len(found.test),
            targets=len(found.trials),
            poisons=len(found.trials[0].bases),
            defences=[defence.label for defence in self.defences],
            seconds=round(seconds, 1),
            warnings=found.remarks + [COMPLETE] * complete,
        )
