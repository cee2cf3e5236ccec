"""The story of `audit --attack pgd`: change test images batch by batch, then let the model answer, and count."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from dpclean import __version__
from dpclean.audit.defences.defence import Setting
from dpclean.audit.defences.registry import find_defences, make_defences
from dpclean.audit.defences.sanitized import Sanitized
from dpclean.audit.evasion import pgd
from dpclean.audit.evasion.claims import Claims
from dpclean.audit.evasion.inputs import EvasionInputs, asked_of, read_evasion_inputs
from dpclean.audit.evasion.options import EvasionKeywords, EvasionOptions
from dpclean.audit.evasion.page import PICTURED, Shown, write_page
from dpclean.audit.evasion.protected import Alone, Answers, Pixels, Protected, Purified
from dpclean.audit.evasion.results import (
    EvasionDryRun,
    EvasionReport,
    Row,
    Said,
    counted,
    headline,
    votes_of,
)
from dpclean.audit.evasion.unfinished import Unfinished
from dpclean.audit.machine import claimed, environment_of, stopping
from dpclean.audit.poisons import png
from dpclean.audit.results import NAME, AuditResult, Made, read_report
from dpclean.audit.victims.victim import Check
from dpclean.certify.parameters import make_test_time_parameters
from dpclean.certify.run_settings import THREADS, make_test_time_settings
from dpclean.certify.runs_on_images import engine, load_denoiser
from dpclean.denoise.differentiable import KEPT_PIXELS
from dpclean.denoise.loading import find_denoiser
from dpclean.device import choose_device
from dpclean.errors import Diverged, InputError
from dpclean.jobs.checks import options_of
from dpclean.jobs.durable import sealed, unsealed, write_durably
from dpclean.jobs.job import COMPLETE, Call, Hopeless, Job, Tell, run
from dpclean.jobs.record import Json, Record
from dpclean.jobs.tasks import Tasks
from dpclean.noise.keys import key_from_seed
from dpclean.noise.normal import standard_normal
from dpclean.progress import Pace, Progress, Show
from dpclean.threads import computing_as_begun
from dpclean.versioned import encoded

PAGE_NAME, IMAGES_NAME, UNFINISHED_NAME = "report.html", "attacked", "unfinished"
MOST, LEAST = 32, 8  # images that are changed together; fewer only where one evaluation's activations would not fit
BEGINNING = "audit/pgd"  # purpose of the noise that decides where a descent begins
ASKED = 16  # images that are purified to look ahead; they take longer than the model's answers
LONGEST = 100  # letters of a label in the name of a folder

Arrays = dict[str, NDArray[Any]]  # what is kept of a task


def audit(
    out: str | os.PathLike[str] = "audit",
    *,
    progress: Show | bool | None = None,
    **options: Unpack[EvasionKeywords],
) -> AuditResult:
    """Attack a model at test time, alone and behind purifiers; the same call again goes on, or finds OUT complete.

    options: the fields of `EvasionOptions`. Raises UsageError, InputError, SetupError, ConflictError, DifferenceError
    for a certificate that does not hold, Diverged where the model's gradients are not finite, InternalError where
    attacks refute a certificate, or Interrupted after a signal.
    """
    chosen = options_of(EvasionOptions, "audit", options)
    return run(EvasionJob(Path(out), chosen), overwrite=chosen.overwrite, progress=progress)


def dry_run(out: str | os.PathLike[str] = "audit", **options: Unpack[EvasionKeywords]) -> EvasionDryRun:
    """What `audit` with the same arguments would do, from a few images and steps; writes nothing."""
    return EvasionJob(Path(out), options_of(EvasionOptions, "audit", options)).look_ahead()


class EvasionJob(Job[AuditResult]):
    """Its tasks, in three stages: what the model says of untouched images, alone and behind each purifier; for each
    attacker his batches; for each row of the table what the model says then.
    """

    kind = "audit"
    marks = (NAME,)
    shared = True

    def __init__(self, out: Path, options: EvasionOptions) -> None:
        super().__init__(out)
        self.options = options
        self.device = choose_device(options.device)
        self._attackers_key = key_from_seed(options.seed, "audit attacker")

    @cached_property
    def found(self) -> EvasionInputs:
        return read_evasion_inputs(self.options)

    @cached_property
    def protected(self) -> list[Protected]:
        """The model alone, then behind each purifier. Raises InputError for a certificate of none of them."""
        o = self.options
        setting = Setting(o.sigmas, o.denoiser, o.method, o.device, bytes(32), 0, 0)
        alone = Alone(self.found.certified.model, self.device)
        made = make_defences(o.defences, setting)
        behind = [self._purified(one, alone) for one in made if isinstance(one, Sanitized)]
        for claims in self.found.claims:
            if not any(claims.are_about(one.terms) for one in behind):
                raise InputError(
                    f"the certificate at sigma {claims.terms.sigma} is about another model, denoiser or sigma than all"
                    " that is attacked",
                    f"give its model as --model, with --sigma {claims.terms.sigma}, and its denoiser and method",
                )
        for one in behind:
            if sum(claims.are_about(one.terms) for claims in self.found.claims) > 1:
                raise InputError(f"several certificates are about {one.label}", "give one for each purifier")
        return [alone, *behind]

    def _purified(self, defence: Sanitized, alone: Alone) -> Purified:
        o = self.options
        asked = asked_of(o, defence.sigma, defence.source, defence.method)
        certified = replace(self.found.certified, denoiser=find_denoiser(defence.source), method=defence.method)
        terms = make_test_time_parameters(certified, asked)
        return Purified(
            defence,
            alone,
            terms,
            make_test_time_settings(certified, asked, terms),
            draws=o.draws,
            votes=o.votes,
            key=key_from_seed(o.seed, self.kind),
            attackers_key=self._attackers_key,
        )

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Attacker and purifier of each row, by their places among the protected."""
        return [(knows, place) for place in range(len(self.protected)) for knows in dict.fromkeys((0, place))]

    # -- what a job is asked for

    def inputs(self) -> list[str | os.PathLike[str] | None]:
        o = self.options
        given = [o.test, o.model, o.weights, o.denoiser, *o.certificate]
        return [*given, *(path for asked in find_defences(o.defences) for path in asked.kind.reads(asked.argument))]

    def parameters(self) -> Json:
        o, found, model = self.options, self.found, self.found.certified.model
        return {
            "attack": pgd.NAME,
            "model": model.digest,
            "recipe": model.recipe.as_dict(),
            "size": model.size,
            "classes": list(found.certified.classes),
            "test": found.certified.points_digest,
            "targets": o.targets,
            "norm": o.norm,
            "eps": o.eps,
            "steps": o.steps,
            "draws": o.draws,
            "votes": o.votes,
            "defences": {
                one.label: {"denoiser": one.terms.denoiser.digests, "method": one.terms.denoiser.method}
                for one in self.protected
                if isinstance(one, Purified)
            },
            "certificates": [claims.job for claims in found.claims],
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

    # -- the work

    def _tasks(self) -> list[Callable[[Check], Arrays]]:
        """All of them, in their order; what each does gives what is kept of it."""
        protected = range(len(self.protected))
        untouched = [partial(self._ask_untouched, place) for place in protected]
        changing = [partial(self._change, knows, number) for knows in protected for number in range(self._batches)]
        return [*untouched, *changing, *(partial(self._ask_attacked, *row) for row in self.rows)]

    @cached_property
    def _batch(self) -> int:
        """How many images are changed together, at most."""
        height, width = self.found.pixels.shape[1:3]
        fit = KEPT_PIXELS // (height * width)
        evaluations = max(1, *(one.evaluations for one in self.protected))
        return max(1, min(MOST, fit, max(LEAST, fit // evaluations)))

    @property
    def _batches(self) -> int:
        """Of each attacker; the last are empty where images are left as they are."""
        return -(-self.options.targets // self._batch)

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        kept, tasks = Tasks(self.staging.work), self._tasks()
        kept.make_folders()
        total = len(tasks)
        done = total - len(kept.missing(total))
        tell(Progress(done, total, "parts", None, "each batch is attacked, then the model is asked"))
        check, pace = stopping(stop, lambda: f"stopped after {done} of {total} parts, saved"), Pace(done)
        stages = len(self.protected), len(self.protected) * (1 + self._batches)
        with claimed(kept, total, stages=stages, still=self._is_begun, check=check) as numbers:
            for number in numbers:
                try:
                    kept.finish(number, sealed(save(tasks[number - 1](check))))
                except Diverged as error:  # by these arguments it always will
                    raise Hopeless(error) from error
                done = total - len(kept.missing(total))
                tell(Progress(done, total, "parts", pace.seconds_left(done, total)))
        return True

    def _is_begun(self) -> bool:
        return self.staging.begun() is not None

    def _untouched_answers(self, place: int) -> Answers:
        return self._kept(place)["answers"]

    def _kept(self, task: int) -> Arrays:
        """What a task has left, by its place in _tasks. Raises ConflictError where it is damaged."""
        return load(unsealed(Tasks(self.staging.work).path(1 + task)))

    def _batch_kept(self, knows: int, number: int) -> Arrays:
        return self._kept(len(self.protected) + knows * self._batches + number)

    @cached_property
    def _given(self) -> list[list[int]]:
        """Of each attacker the places of the images that he changes: that something he shows them to gets right."""
        labels, classes = self.found.attacked.labels, len(self.found.certified.classes)
        right = []
        for place in range(len(self.protected)):
            answers = self._untouched_answers(place)
            right.append((answers[0] == labels) | (votes_of(answers, classes) == labels))
        shown = [[place for knows, place in self.rows if knows == attacker] for attacker in range(len(self.protected))]
        return [np.flatnonzero(np.any([right[place] for place in places], axis=0)).tolist() for places in shown]

    def _change(self, knows: int, number: int, check: Check) -> Arrays:
        """A batch of images as an attacker leaves them, and what that has taken."""
        given = self._given[knows]
        batches = np.array_split(given, max(1, -(-len(given) // self._batch)))  # alike in size: small ones are slow
        batch = batches[number].tolist() if number < len(batches) else []
        changed = self.found.pixels[:0]
        unfinished = Unfinished(self.staging.work / UNFINISHED_NAME / f"{knows}-{number}.safetensors", self.device)
        if batch:
            changed = self._attacked(self.protected[knows], batch, self.options.steps, check, unfinished)
        return {"changed": changed, "spent": np.array(unfinished.spent())}

    def _attacked(
        self, seen: Protected, batch: Sequence[int], steps: int, check: Check, unfinished: Unfinished
    ) -> Pixels:
        found = self.found
        numbers = found.attacked.indices[list(batch)]
        images = torch.from_numpy(found.pixels[list(batch)]).permute(0, 3, 1, 2).float().to(self.device)
        height, width = images.shape[2:]
        normal = standard_normal(
            (height, width, images.shape[1]), (0, 0), (height, width),
            device=self.device, key=self._attackers_key, purpose=BEGINNING, run=0, indices=numbers, test=True,
        )  # fmt: skip
        labels = torch.from_numpy(found.attacked.labels[list(batch)]).to(self.device)
        changed = pgd.attacked(
            images,
            labels,
            seen.look(numbers),
            self.options.budget,
            steps=steps,
            draws=seen.draws,
            normal=normal,
            begun=unfinished.begun,
            on_draw=check,
            on_step=unfinished.keep,
        )
        return changed.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _ask_untouched(self, place: int, check: Check) -> Arrays:
        """What the model says of all images as they are."""
        return {"answers": self.protected[place].answers(self.found.pixels, self.found.attacked.indices, check)}

    def _ask_attacked(self, knows: int, place: int, check: Check) -> Arrays:
        """What it says of them as an attacker leaves them."""
        answers, given = self._untouched_answers(place).copy(), self._given[knows]
        if given:
            pixels = self._changed(knows)[given]
            answers[:, given] = self.protected[place].answers(pixels, self.found.attacked.indices[given], check)
        return {"answers": answers}

    def _changed(self, knows: int) -> Pixels:
        """All images as an attacker leaves them."""
        pixels = self.found.pixels.copy()
        batches = [self._batch_kept(knows, number)["changed"] for number in range(self._batches)]
        pixels[self._given[knows]] = np.concatenate(batches)
        return pixels

    # -- what comes of it

    def save(self, record: Record) -> None:
        found, o, partial_out = self.found, self.options, self.staging.partial
        self._write_images()
        classes, values = list(found.certified.classes), found.pixels[0].size
        said, rows, remarks = list[Said](), list[Row](), list(found.remarks)
        for last, (knows, place) in enumerate(self.rows, len(self._tasks()) - len(self.rows)):
            answers, change = self._kept(last)["answers"], self._changed(knows).astype(np.int64) - found.pixels
            row, one = self._row(knows, place, answers, np.square(change).sum((1, 2, 3)), remarks)
            rows.append(row)
            said.append(one)
        report = EvasionReport(
            tool=f"dpclean {__version__}",
            headline=headline(rows, o.budget),
            paper=pgd.PAPER,
            rows=rows,
            answers=said,
            classes=classes,
            names=found.attacked.names,
            labels=found.attacked.labels.tolist(),
            test_images=len(found.certified.points),
            model=found.certified.model.id,
            norm=o.norm,
            eps=o.eps,
            reach=math.ceil(o.budget.radius(values) * 10**4) / 10**4,  # all lies within: rounded up
            remarks=remarks,
            parameters=record.parameters,
            environment=record.environment,
        )
        shown = [self._shown(place) for place in range(min(PICTURED, o.targets))]
        write_page(partial_out / PAGE_NAME, report, o.budget, self.protected, shown)
        write_durably(partial_out / NAME, encoded(report))

    def _write_images(self) -> None:
        """What each attacker has changed, a folder for each."""
        for knows, given in enumerate(self._given):
            label = re.sub("[^A-Za-z0-9.]+", "-", self.protected[knows].label)[:LONGEST]
            folder, pixels = self.staging.partial / IMAGES_NAME / f"{knows}-{label}", self._changed(knows)
            for place in given:
                folder.mkdir(parents=True, exist_ok=True)
                write_durably(folder / f"{self.found.attacked.indices[place]:06d}.png", png(pixels[place]))

    def _row(
        self, knows: int, place: int, answers: Answers, squares: NDArray[np.int64], remarks: list[str]
    ) -> tuple[Row, Said]:
        """Raises InternalError where a certificate is refuted. remarks: get what is to be borne in mind of it."""
        protected, o = self.protected[place], self.options
        labels, classes = self.found.attacked.labels, len(self.found.certified.classes)
        clean = self._untouched_answers(place)
        votes, clean_votes = votes_of(answers, classes), votes_of(clean, classes)
        covered = refuted = None
        if isinstance(protected, Purified) and (claims := self._claims(protected)) is not None:
            reach = claims.reach([o.budget.squares(self.found.pixels[0].size)] * o.targets)
            covered = int((reach & (claims.classes == labels)).sum())
            certificates = len(self.found.claims)
            wrong = claims.refuted(answers, squares.tolist(), self._tested_rows)
            refuted = int(wrong.sum())
            told = f"{protected.label}, attacked by one who knows {self.protected[knows].label}"
            if elsewhere := claims.other_engine(engine(load_denoiser(protected.settings), THREADS)):
                remark = (
                    f"the certificate at sigma {claims.terms.sigma} was made with {elsewhere}, so it is not asked"
                    " whether these attacks refute it"
                )
                remarks += [] if remark in remarks else [remark]
            else:
                claims.check(wrong, told, certificates)
        noisy, changed = isinstance(protected, Purified), len(self._given[knows])
        spent = np.sum([self._batch_kept(knows, number)["spent"] for number in range(self._batches)], axis=0)
        seconds, processor_seconds = spent / max(1, changed)
        distances = np.sqrt(squares[self._given[knows]]) / 255
        row = Row(
            knows=None if knows == 0 else self.protected[knows].label,
            defence=protected.label,
            images=o.targets,
            changed=changed,
            clean=counted(clean[0] == labels),
            attacked=counted(answers[0] == labels),
            clean_by_vote=counted(clean_votes == labels) if noisy else None,
            attacked_by_vote=counted(votes == labels) if noisy else None,
            covered=covered,
            refuted=refuted,
            largest=round(float(distances.max(initial=0)), 4),
            mean=round(float(distances.sum()) / max(1, changed), 4),
            steps=o.steps,
            draws=self.protected[knows].draws,
            seconds=round(float(seconds), 3),
            processor_seconds=round(float(processor_seconds), 3),
        )
        return row, Said(
            clean=clean[0].tolist(),
            attacked=answers[0].tolist(),
            clean_by_vote=clean_votes.tolist(),
            attacked_by_vote=votes.tolist(),
            squares=squares.tolist(),
        )

    def _claims(self, protected: Purified) -> Claims | None:
        return next((claims for claims in self.found.claims if claims.are_about(protected.terms)), None)

    @cached_property
    def _tested_rows(self) -> int:
        """How many rows there are that could refute a certificate."""
        asked = [self.protected[place] for _, place in self.rows]
        return sum(isinstance(one, Purified) and self._claims(one) is not None for one in asked)

    def _shown(self, place: int) -> Shown:
        found, numbers = self.found, self.found.attacked.indices[[place]]
        changed = [self._changed(knows)[[place]] for knows in range(len(self.protected))]
        labels = found.attacked.labels
        return Shown(
            caption=f"{found.attacked.names[place]}, of {found.certified.classes[labels[place]]}",
            image=found.pixels[place],
            attacked=[one[0] for one in changed],
            purified=[seen.purified(one, numbers)[0] for seen, one in zip(self.protected, changed, strict=True)],
        )

    # -- tell

    def result(self, call: Call) -> AuditResult:
        report = read_report(self.out, EvasionReport)
        return AuditResult.of(self.out, report, len(report.names), call)

    def look_ahead(self) -> EvasionDryRun:
        """A few images are changed and asked about, and that is timed."""
        complete = self.foresee(overwrite=self.options.overwrite)
        found, o = self.found, self.options
        with self.ready(None):
            seconds = sum(self._seconds(one) for one in self.protected)
        return EvasionDryRun(
            out=str(self.out),
            attack=pgd.NAME,
            classes=list(found.certified.classes),
            test_images=len(found.certified.points),
            targets=o.targets,
            defences=[one.label for one in self.protected],
            seconds=round(seconds, 1),
            warnings=found.remarks + [COMPLETE] * complete,
        )

    def _seconds(self, seen: Protected) -> float:
        """Of all that concerns one of the protected: one who knows it, and answers to images untouched or changed."""
        numbers, whole = self.found.attacked.indices, self.options.targets
        look, batch = seen.look(numbers[: self._batch]), self.found.pixels[: self._batch]
        levels = torch.from_numpy(batch).permute(0, 3, 1, 2).float().to(self.device)

        def draw() -> None:
            leaf = levels.clone().requires_grad_()
            torch.autograd.grad(look(leaf, 0).sum(), leaf)[0].sum().item()  # a GPU is waited for here

        def clean() -> None:
            seen.purified(self.found.pixels[:ASKED], numbers[:ASKED])

        for work in (draw, clean):
            work()  # the first time pays for what is set up once
        a_gradient, an_answer = _timed(draw) / len(batch), _timed(clean) / min(ASKED, whole)
        return whole * (a_gradient * self.options.steps * seen.draws + 3 * an_answer * seen.votes)


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
