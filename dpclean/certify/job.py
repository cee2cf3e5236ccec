"""The story of one `certify` command: fix the data, draw the key, do the runs, publish what they prove."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from msgspec import structs

from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.certificate import claimed_points
from dpclean.certificate.limits import check_parameters
from dpclean.certificate.parameters import CertificateParameters, JobParameters, attempt_of
from dpclean.certificate.votes import ABSTAIN, VOTES_NAME, Votes, count_votes, job_id, read_votes
from dpclean.certify.crew import Crew, check_failed
from dpclean.certify.method import THREADS, make_method, settled
from dpclean.certify.options import Given, Options
from dpclean.certify.publish import holds_certificate, publish, read_result
from dpclean.certify.results import CertifyResult
from dpclean.certify.store import MODELS, WORK, Store, model_name, read_model
from dpclean.certify.subject import Subject, find_origin, read_subject
from dpclean.certify.terms import changes, make_parameters, with_found
from dpclean.certify.units import NO_MODEL
from dpclean.errors import ConflictError, InputError, Interrupted
from dpclean.given import options_of
from dpclean.jobs.key_file import write_key
from dpclean.jobs.signals import first_signal
from dpclean.jobs.staging import Staging
from dpclean.noise.keys import commitment, draw_key, key_from_seed
from dpclean.progress import Pace, Progress, shown_as_asked

LOCK_SECONDS = 600.0  # how long to wait for another command that begins or publishes the same job
OTHERS_SECONDS = 1.0
LIVE_SECONDS = 10.0
_OPEN_ENDED = " or ".join(name for name in BOUNDS if find_bound(name).open_ended)


def certify(
    clean: str | os.PathLike[str] = "clean",
    out: str | os.PathLike[str] = "certificate",
    *,
    progress: Callable[[Progress], None] | bool | None = None,
    say: Callable[[str], None] | None = None,
    **options: Unpack[Given],
) -> CertifyResult:
    """Train on many noised and denoised copies and turn their votes into a certificate in OUT.

    clean: what `sanitize` wrote, or raw data together with sigma. options: fields of `dpclean.certify.options.Options`.
    say: gets, as sentences without a full stop, what was taken from CLEAN's manifest and, before the first run, the
    job's identity, for an issuer who wants to commit to it.
    The same call again goes on with the runs that are missing; the same call from another process joins in.
    Raises UsageError, InputError, SetupError, ConflictError, or Interrupted after a signal, each with a remedy.
    Source: arXiv 2403.11981, section 3; docs/certificates.md.
    """
    asked = options_of(Options, "certify", options)
    with shown_as_asked(progress) as show:
        return _Job(Path(clean), Path(out), asked, show, say or (lambda _: None)).run()


class _Job:
    """One command's paths and options, and the steps from reading to publishing."""

    def __init__(
        self,
        clean: Path,
        out: Path,
        options: Options,
        progress: Callable[[Progress], None],
        say: Callable[[str], None],
    ) -> None:
        self.clean = clean
        self.options = options
        self.progress = progress
        self.say = say
        self.staging = Staging(out)
        self.out = self.staging.out
        self.staging.check_apart(clean, options.raw, options.test, options.denoiser, options.init)
        self.store = Store(self.staging.partial)
        self.begun = time.monotonic()

    @cached_property
    def subject(self) -> Subject:
        """The data and the points, read and checked."""
        origin = find_origin(self.clean, self.options)
        self.staging.check_apart(origin.raw)
        if origin.taken:
            self.say(origin.taken)
        subject = read_subject(origin, self.options)
        for remark in subject.remarks:
            self.say(remark)
        return subject

    def run(self) -> CertifyResult:
        """The result, whether the runs are done now, were begun earlier, or had been finished before."""
        asked = make_parameters(self.subject, self.options)
        check_parameters(asked)
        with ExitStack() as working:
            with self._locked():
                if self._is_finished(asked):
                    return self._result(already_complete=True)
                begun = self._begun(asked) or self._begin(asked)
                working.enter_context(self._active())
            parameters = structs.replace(begun, runs=asked.runs)
            self._announce(parameters)
            before = len(self.store.units(parameters).done())
            self._work(parameters)
        with self._locked():
            if self.store.begun() is not None:  # else another command of this job has published it meanwhile
                self._publish(parameters)
        return self._result(runs_done_now=parameters.runs - before)

    # -- what is there already

    def _is_finished(self, asked: JobParameters) -> bool:
        """Whether OUT is this job's complete certificate. Refuses an OUT that is something else."""
        if not holds_certificate(self.out) or self.options.overwrite:
            return False
        published = read_votes(self.out / VOTES_NAME)
        self._refuse_changes("was made", published.parameters, asked)
        shutil.rmtree(self.out / WORK, ignore_errors=True)
        return published.parameters.runs == asked.runs or self._reopen(published, asked)

    def _begun(self, asked: JobParameters) -> JobParameters | None:
        """The job that an earlier command began, None where there is none. Refuses changed terms."""
        job = None if self.options.overwrite else self.store.begun()
        if job is None:
            self._check_idle()
            return None
        self._refuse_changes("was begun", job.parameters, asked)
        return job.parameters

    def _refuse_changes(self, how: str, begun: CertificateParameters, asked: JobParameters) -> None:
        changed = changes(begun, asked)
        if not changed:
            return
        told = ", ".join(
            f"{name.replace('_', '-')} {_short(old)} there, {_short(new)} now" for name, old, new in changed
        )
        why = "every run must be counted as announced before the first: " if changed[0][0] == "runs" else ""
        raise ConflictError(
            f"{str(self.out)!r} {how} with other terms ({told})",
            f"{why}choose another --out, or --overwrite to start again"
            + (f"; with --bound {_OPEN_ENDED} runs may be added" if why else ""),
        )

    # -- begin

    def _begin(self, asked: JobParameters) -> JobParameters:
        """Fix the data, then draw the key: the noise must not be known before the data are fixed."""
        from dpclean.certify.runner import engine, load_denoiser

        method = make_method(self.subject, self.options, asked)
        denoiser = load_denoiser(method)
        attempt = self._attempts() + 1
        self.staging.start()
        self.store.write_data(self.subject)
        seed = self.options.seed
        key = draw_key() if seed is None else key_from_seed(seed, "certify")
        write_key(self.staging.key, key)
        found = engine(denoiser, THREADS)
        parameters = with_found(asked, found, commitment(key), attempt)
        self.store.begin(parameters, settled(method, found), self.subject)
        return parameters

    def _attempts(self) -> int:
        """How many jobs were begun in this place before, as far as anything tells that is left of them."""
        published = 0
        if holds_certificate(self.out):
            try:
                published = attempt_of(read_votes(self.out / VOTES_NAME).parameters)
            except (InputError, ConflictError):  # it is to be replaced, whatever it says
                published = 1
        return max(published, self.store.attempt())

    def _announce(self, parameters: JobParameters) -> None:
        attempt = f", attempt {parameters.attempt} in this place" if parameters.attempt > 1 else ""
        self.say(
            f"job {job_id(parameters)}{attempt}: publish this now, and nobody can say that you chose among jobs later"
        )

    def _reopen(self, published: Votes, asked: JobParameters) -> bool:
        """Put the runs of a finished job back to work, so that more can be added; False.

        Fewer runs than published are refused by nobody: what is published stays valid, and stays.
        """
        if asked.runs < published.parameters.runs:
            return True
        assert isinstance(published.parameters, JobParameters)  # else it was refused
        if self.store.begun() is None:
            self.store.folder.mkdir(exist_ok=True)
            self.store.write_data(self.subject)
            units = self.store.units(published.parameters)
            units.make_folders()
            for place, row in enumerate(published.votes):
                units.write(place + 1, row, self._kept_model(published, place))
            method = settled(make_method(self.subject, self.options, asked), published.parameters.engine)
            self.store.begin(published.parameters, method, self.subject)
        return False

    def _kept_model(self, published: Votes, place: int) -> bytes | None:
        """The model of a published run, None where it has none. Raises what read_model does."""
        if published.models is None or published.models[place].tobytes() == NO_MODEL:
            return None
        return read_model(self.out / MODELS / model_name(place + 1), published.models[place].tobytes())

    # -- work

    def _work(self, parameters: JobParameters) -> None:
        """Do the missing runs, or wait for those that do them. Raises Interrupted after a signal."""
        units, runs = self.store.units(parameters), parameters.runs
        tell = _Teller(units, parameters, self.progress, self._proved)
        with first_signal() as interrupted:
            while self.store.begun() is not None and units.missing(runs):
                check_failed(units, runs)
                devices = self._devices(parameters.engine["device"], len(units.missing(runs)))
                threads = parameters.engine["threads"] or 1
                with Crew(self.store.folder, self.staging.key, units, runs, devices, threads) as crew:
                    finished = crew.watch(tell, interrupted.is_set)
                if interrupted.is_set() and not finished:
                    raise Interrupted(
                        f"stopped after {len(units.done())} of {runs} runs, all of them saved",
                        "the same command goes on",
                    )
                if not finished:  # the rest is claimed by other commands
                    time.sleep(OTHERS_SECONDS)
        check_failed(units, runs)
        tell(last=True)

    def _devices(self, kind: str, missing: int) -> list[str]:
        if kind == "cpu":
            cores = len(os.sched_getaffinity(0)) // THREADS
            return ["cpu"] * min(self.options.workers or cores, missing)
        import torch

        if ":" in self.options.device:
            return [self.options.device]
        count = min(torch.cuda.device_count(), self.options.workers or torch.cuda.device_count(), missing)
        return [f"{kind}:{number}" for number in range(count)]

    def _proved(self, parameters: JobParameters, runs: int) -> str:
        """What is proved after so many runs, in a word."""
        votes, records, models = self.store.units(parameters).table(runs)
        so_far = Votes(votes, self.subject.points.labels, records, structs.replace(parameters, runs=runs), models)
        claimed = [point for point in claimed_points(so_far, count_votes(so_far)) if point["class"] != ABSTAIN]
        right = sum(point["class"] == point["label"] for point in claimed)
        return f"{len(claimed)} of {parameters.points} certified, {right} right"

    # -- publish

    def _publish(self, parameters: JobParameters) -> None:
        votes, records, models = self.store.units(parameters).table(parameters.runs)
        points = self.subject.points
        if models is not None:
            self.store.keep_models(parameters, models)
        publish(self.staging.partial, Votes(votes, points.labels, records, parameters, models), points.pixels)
        self.staging.commit()
        shutil.rmtree(self.out / WORK)

    def _result(self, *, runs_done_now: int = 0, already_complete: bool = False) -> CertifyResult:
        return read_result(
            self.out,
            runs_done_now=runs_done_now,
            already_complete=already_complete,
            seconds=time.monotonic() - self.begun,
        )

    # -- locks

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone at beginning and publishing; another command of the same job is waited for."""
        deadline = time.monotonic() + LOCK_SECONDS
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.staging)
                    break
                except ConflictError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield

    @contextmanager
    def _active(self) -> Iterator[None]:
        """Says that a command is at work on the job; any number of them may be."""
        with (self.store.work / "active").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _check_idle(self) -> None:
        """Refuse to start again while other commands are at work on the job."""
        path = self.store.work / "active"
        if not path.exists():
            return
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(
                    f"another command is at work on {str(self.out)!r}", "stop it first, or choose another --out"
                ) from error


class _Teller:
    """Turns what is on the disk into progress, now and then."""

    def __init__(self, units: Any, parameters: JobParameters, progress: Callable[[Progress], None], live: Any) -> None:
        self.units = units
        self.parameters = parameters
        self.progress = progress
        self.live = live
        self.finished = len(units.done())
        self.pace = Pace(self.finished)
        self.told = 0.0
        self.said: str | None = None
        self.said_at = time.monotonic()

    def __call__(self, last: bool = False) -> None:
        begun = time.monotonic()
        if not last and begun < self.told:
            return
        finished, total = max(self.finished, len(self.units.done())), self.parameters.runs
        if (
            find_bound(self.parameters.bound).open_ended
            and begun >= self.said_at + LIVE_SECONDS
            and (t := self.units.prefix())
        ):
            self.said, self.said_at = self.live(self.parameters, t), time.monotonic()
        detail = ", ".join(filter(None, (f"{len(self.units.failed())} failed", self.said)))
        self.progress(Progress(finished, total, "runs", self.pace.seconds_left(finished, total), detail))
        self.finished = finished
        self.told = begun + max(0.5, 20 * (time.monotonic() - begun))  # a million files take a while to count


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
