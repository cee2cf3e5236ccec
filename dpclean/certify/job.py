"""The story of one `certify` command: fix the data, draw the key, do the runs, publish what they prove."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from msgspec import UNSET, structs
from numpy.typing import NDArray

from dpclean import __version__
from dpclean.certificate.bounds import BOUNDS, find_bound
from dpclean.certificate.certificate import claimed_points
from dpclean.certificate.limits import check_members, check_parameters
from dpclean.certificate.parameters import (
    EvasionParameters,
    JobParameters,
    OwnParameters,
    attempt_of,
    counts_images,
    may_add_runs,
    seeded_as,
)
from dpclean.certificate.votes import ABSTAIN, VOTES_NAME, Votes, count_votes, job_id, read_votes
from dpclean.certify.data import Data, first_other, read_data, write_data
from dpclean.certify.extracted import extract, extractor_of
from dpclean.certify.feature_inputs import CertifiedFeatures, read_certified_features
from dpclean.certify.feature_runs import FeatureData, products_fit, products_pay
from dpclean.certify.feature_runs import engine as feature_engine
from dpclean.certify.inputs import CertifiedData, DataSource, find_source, read_certified_data
from dpclean.certify.options import CertifyKeywords, CertifyOptions
from dpclean.certify.parameters import fixed_before, found_of, make_parameters, make_test_time_parameters, whole
from dpclean.certify.results import CertifyResult
from dpclean.certify.run_settings import (
    FEWEST,
    THREADS,
    RunSettings,
    TestTimeSettings,
    made_of,
    make_run_settings,
    make_test_time_settings,
    settled,
)
from dpclean.certify.run_tasks import NO_MODEL
from dpclean.certify.save import MARKS, read_result, write_outputs
from dpclean.certify.test_time_inputs import (
    CertifiedImages,
    PointData,
    model_place,
    read_certified_images,
    read_points,
)
from dpclean.certify.workdir import KIND, MODELS, Workdir, model_name, read_model
from dpclean.data.ancestry import Ancestry
from dpclean.data.dataset import Images
from dpclean.data.features import Features
from dpclean.errors import ConflictError, InputError, Interrupted
from dpclean.jobs import child_process
from dpclean.jobs.checks import options_of
from dpclean.jobs.job import Call, Job, Tell, run
from dpclean.jobs.key_file import write_key
from dpclean.jobs.record import Json, Record
from dpclean.jobs.worker_group import WorkerGroup
from dpclean.noise.keys import commitment, job_key
from dpclean.progress import Pace, Progress, Show

OTHERS_SECONDS = 1.0
MOST_FAILED = 0.05
FIRST_FAILED = 20  # of runs on shares
LIVE_SECONDS = 10.0
_OPEN_ENDED = " or ".join(name for name in BOUNDS if find_bound(name).open_ended)


def certify(
    clean: str | os.PathLike[str] = "clean",
    out: str | os.PathLike[str] = "certificate",
    *,
    progress: Show | bool | None = None,
    say: Callable[[str], None] | None = None,
    **options: Unpack[CertifyKeywords],
) -> CertifyResult:
    """Train on many noised and denoised copies and turn their votes into a certificate in OUT.

    Under the threat evasion one fixed model votes on noised and denoised test images instead, and clean is not read.
    clean: what `sanitize` wrote, or raw data together with sigma. options: the fields of `CertifyOptions`.
    say: gets, as sentences without a full stop, what was taken from CLEAN's manifest and, before the first run, the
    job's identity, for an issuer who wants to commit to it.
    The same call again goes on with the runs that are missing; the same call from another process joins in.
    Raises UsageError, InputError, SetupError, ConflictError, or Interrupted after a signal, each with a remedy.
    Source: arXiv 2403.11981, section 3; docs/certificates.md.
    """
    asked = options_of(CertifyOptions, "certify", options)
    job = CertifyJob(Path(clean), Path(out), asked, say or (lambda _: None))
    return run(job, overwrite=asked.overwrite, progress=progress)


class CertifyJob(Job[CertifyResult]):
    kind = KIND
    marks = MARKS
    shared = True

    def __init__(self, clean: Path, out: Path, options: CertifyOptions, say: Callable[[str], None]) -> None:
        super().__init__(out)
        self.clean = clean
        self.options = options
        self.say = say
        self.workdir = Workdir(self.staging)
        self.published: Votes | None = None  # of a finished job to which runs are added
        self.runs_done_now = 0

    @cached_property
    def source(self) -> DataSource:
        return find_source(self.clean, self.options)

    @cached_property
    def certified(self) -> CertifiedData | CertifiedFeatures | CertifiedImages:
        """The data and the points, read and checked."""
        certified: CertifiedData | CertifiedFeatures | CertifiedImages
        if self.options.is_at_test_time:
            certified = read_certified_images(self.options)
        elif self.options.features is not None:
            certified = read_certified_features(self.options)
        else:
            if self.source.taken:
                self.say(self.source.taken)
            certified = read_certified_data(self.source, self.options)
        for remark in certified.remarks:
            self.say(remark)
        return certified

    @cached_property
    def asked(self) -> JobParameters | EvasionParameters:
        """The parameters, less what is found out when the job begins."""
        if isinstance(self.certified, CertifiedImages):
            at_test_time = make_test_time_parameters(self.certified, self.options)
            check_parameters(at_test_time)
            return at_test_time
        asked = make_parameters(self.certified, self.options)
        check_parameters(asked)
        check_members(asked, FEWEST if asked.dimensions is UNSET else 1)
        return asked

    def inputs(self) -> Iterator[str | os.PathLike[str] | None]:
        if self.options.features is not None:
            yield from (self.options.features, self.options.test_features)
            return
        if self.options.is_at_test_time:
            yield from (self.options.test, model_place(self.options), self.options.denoiser)
            return
        yield self.options.weights
        yield from (self.clean, self.options.raw, self.options.test, self.options.denoiser, self.options.init)
        yield self.source.raw

    def parameters(self) -> Json:
        return fixed_before(self.asked)

    def made_with(self) -> Json:
        return fixed_before(read_votes(self.out / VOTES_NAME).parameters)

    def ways_out(self, begun: Json) -> str:
        usual = super().ways_out(begun)
        if begun.get("runs") in (self.parameters().get("runs"), None):
            return usual
        return (
            f"every run must be counted as announced before the first: {usual};"
            f" with --bound {_OPEN_ENDED} runs may be added"
        )

    def reopens(self) -> bool:
        """Whether runs are to be added to a finished job. Fewer are not refused: what is there stays."""
        published = read_votes(self.out / VOTES_NAME)
        self._refuse_other_engine("was made", published.parameters.engine or {})
        if self.asked.runs <= published.parameters.runs:
            return False
        self.published = published
        return True

    def goes_on(self, record: Record) -> bool:
        self._refuse_other_engine("was begun", record.environment)
        self._refuse_other_images(record.parameters.get("inputs_digest"))
        return super().goes_on(record)

    def _refuse_other_images(self, begun: Any) -> None:
        """Tell where images differ from those that the job was begun with, where these are kept for its runs."""
        certified = self.certified
        kept: list[tuple[Iterable[NDArray[np.uint8]], Images, str]]
        if begun == self.parameters()["inputs_digest"] or self.settings is None:
            return
        try:
            if isinstance(certified, CertifiedImages):
                kept = [(read_points(self.workdir.data, begun).pixels, certified.points, "test")]
            else:
                assert isinstance(certified, CertifiedData)
                data = read_data(self.workdir.data, begun)
                kept = [(data.train, certified.train, "training"), (data.points, certified.points, "test")]
        except InputError:  # nothing to compare with
            return
        for before, now, what in kept:
            if (place := first_other(before, now.pixels)) is not None:
                follows = f"comes after {now.names[place - 1]!r}" if place else "is the first one"
                raise ConflictError(
                    f"{str(self.out)!r} was begun with other {what} images: the first that differs, is gone or is new"
                    f" {follows}",
                    "restore them, choose another --out, or --overwrite to start again",
                )

    def _refuse_other_engine(self, how: str, engine: Json) -> None:
        """Whoever goes on takes the engine that there is: what was asked for by name must be it. Rows need none."""
        demanded = self.options.demanded() if "dtype" in engine else {}
        self.refuse_others(how, {name: engine.get(name) for name in demanded}, demanded)

    # -- begin

    @contextmanager
    def ready(self, record: Record | None) -> Iterator[None]:
        if record is None:  # what tells of earlier jobs is about to go
            self.attempt = self._attempts() + 1
        yield

    @cached_property
    def settings(self) -> RunSettings | TestTimeSettings | None:
        """How runs on images are done; of those on features, also on such as are made once, the terms say it."""
        if isinstance(self.certified, CertifiedFeatures) or self.certified.denoiser is None:
            return None
        if isinstance(self.asked, EvasionParameters):
            assert isinstance(self.certified, CertifiedImages)
            return make_test_time_settings(self.certified, self.options, self.asked)
        assert isinstance(self.certified, CertifiedData)
        return make_run_settings(self.certified, self.options, self.asked)

    @cached_property
    def _environment(self) -> Json:
        if self.published is not None:
            return self._published_parameters().engine
        if self.settings is None:
            return feature_engine()
        from dpclean.certify.runs_on_images import engine as engine_of
        from dpclean.certify.runs_on_images import load_denoiser

        return engine_of(load_denoiser(self.settings), THREADS)

    def environment(self) -> Json:
        return self._environment

    def refuse_elsewhere(self, begun: Json) -> None:
        """Each process that does runs compares its own."""

    def begin(self) -> Json:
        """Fix the data, then draw the key: the noise must not be known before the data are fixed."""
        certified, settings = self.certified, self.settings
        rows: dict[str, str] = {}
        if isinstance(certified, CertifiedFeatures):
            FeatureData.of(certified.train, certified.points, certified.division).write(self.workdir.data)
        elif isinstance(certified, CertifiedImages):
            PointData.of(certified.points).write(self.workdir.data)
        elif settings is None:
            rows["rows_digest"] = self._extract(certified)
        else:
            write_data(self.workdir.data, Data.of(certified.train, certified.points, certified.division))
        if settings is not None:
            settings = settled(settings, self.environment())
        if self.published is not None:
            found = found_of(self._published_parameters())
        else:
            key = job_key(self.options.seed, seeded_as(self.asked))
            write_key(self.staging.key, key)
            found = {
                "tool": f"dpclean {__version__}",
                "key_commitment": commitment(key),
                "attempt": self.attempt,
                "runs": self.asked.runs,
                **rows,
            }
        parameters = whole(self.parameters(), found, self.environment())
        self.workdir.begin(parameters, self._made_of)
        if self.published is not None:
            self._put_back(self.published, parameters)
        return {"terms": found, "settings": None if settings is None else asdict(settings)}

    def _made_of(self) -> Ancestry:
        """What models that are kept are made of."""
        assert not isinstance(self.certified, CertifiedImages)  # nothing is trained there
        if isinstance(self.certified, CertifiedFeatures):
            return self.certified.ancestry
        settings = self.settings
        made = self.certified.ancestry
        if isinstance(settings, RunSettings):
            assert isinstance(self.certified, CertifiedData)
            made = made_of(self.certified, settings)
        return made if self.options.extractor is None else made | extractor_of(self.options, self.certified).ancestry

    def _extract(self, certified: CertifiedData) -> str:
        """Write the rows that the extractor makes, and their digest. Raises ConflictError for others than before."""
        data = extract(extractor_of(self.options, certified), certified)
        data.write(self.workdir.data)
        digest = data.digest()
        published = None if self.published is None else self._published_parameters()
        if isinstance(published, JobParameters) and published.rows_digest != digest:
            raise ConflictError(
                "the extractor makes other rows here than where the job was begun, and runs must be alike",
                "add the runs on the same machine with the same versions, or start again with --overwrite",
            )
        return digest

    def _attempts(self) -> int:
        """How many jobs were begun in this place before, as far as anything tells that is left of them."""
        published = 0
        if all((self.out / name).is_file() for name in MARKS):
            try:
                published = attempt_of(read_votes(self.out / VOTES_NAME).parameters)
            except (InputError, ConflictError):  # it is to be replaced, whatever it says
                published = 1
        return max(published, self.workdir.attempt())

    def _published_parameters(self) -> OwnParameters:
        assert self.published is not None and isinstance(self.published.parameters, OwnParameters)  # else refused
        return self.published.parameters

    def _put_back(self, published: Votes, parameters: OwnParameters) -> None:
        """The runs of a finished job as they were before it was published."""
        tasks = self.workdir.tasks(parameters)
        for place, row in enumerate(published.votes):
            tasks.write(place + 1, row, self._kept_model(published, place))

    def _kept_model(self, published: Votes, place: int) -> bytes | None:
        """The model of a published run, None where it has none. Raises what read_model does."""
        if published.models is None or published.models[place].tobytes() == NO_MODEL:
            return None
        return read_model(self.out / MODELS / model_name(place + 1), published.models[place].tobytes())

    # -- work

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        """Do the missing runs, or wait for those that do them. Raises Interrupted after a signal."""
        parameters = self._parameters_of(record)
        self._announce(parameters)
        if isinstance(parameters, JobParameters) and products_pay(parameters) and not products_fit(parameters):
            self.say(
                "the training rows and the test rows are too many to keep the product of every two in memory: runs take"
                " longer, with the same votes; fewer test rows go faster"
            )
        tasks, runs = self.workdir.tasks(parameters), parameters.runs
        before = len(tasks.done())
        told = _Teller(tasks, parameters, tell, self._proved)
        threads = parameters.engine["threads"] or 1

        def start(worker: str, device: str) -> subprocess.Popen[bytes]:
            arguments = (str(self.out), device, str(runs), worker)
            return child_process.start("dpclean.certify.worker", *arguments, threads=threads)

        while self.workdir.begun() is not None and tasks.missing(runs):
            told()
            devices = self._devices(parameters.engine["device"], len(tasks.missing(runs)))
            with WorkerGroup(tasks, runs, devices, start) as workers:
                finished = workers.watch(told, stop.is_set)
            if stop.is_set() and not finished:
                raise Interrupted(
                    f"stopped after {len(tasks.done())} of {runs} runs, all of them saved", "the same command goes on"
                )
            if not finished:  # the rest is claimed by other commands
                time.sleep(OTHERS_SECONDS)
        told(last=True)
        self.runs_done_now = runs - before
        return True

    def _parameters_of(self, record: Record) -> OwnParameters:
        """Those that the job was begun with, and as many runs as are asked for now."""
        begun = whole(record.parameters, record.found["terms"], record.environment)
        return structs.replace(begun, runs=self.asked.runs)

    def _announce(self, parameters: OwnParameters) -> None:
        attempt = f", attempt {parameters.attempt} in this place" if parameters.attempt > 1 else ""
        self.say(
            f"job {job_id(parameters)}{attempt}: publish this now, and nobody can say that you chose among jobs later"
        )

    def _devices(self, kind: str, missing: int) -> list[str]:
        if kind == "cpu":
            cores = len(os.sched_getaffinity(0)) // THREADS
            return ["cpu"] * min(self.options.workers or cores, missing)
        import torch

        if ":" in self.options.device:
            return [self.options.device]
        count = min(torch.cuda.device_count(), self.options.workers or torch.cuda.device_count(), missing)
        return [f"{kind}:{number}" for number in range(count)]

    def _proved(self, parameters: OwnParameters, runs: int) -> str:
        """What is proved after so many runs, in a word."""
        table = self.workdir.tasks(parameters).table(runs)
        so_far = table.of(structs.replace(parameters, runs=runs), self.certified.points.labels)
        claimed = [point for point in claimed_points(so_far, count_votes(so_far)) if point["class"] != ABSTAIN]
        right = sum(point["class"] == point["label"] for point in claimed)
        return f"{len(claimed)} of {parameters.points} certified, {right} right"

    # -- publish

    def save(self, record: Record) -> None:
        parameters = self._parameters_of(record)
        table = self.workdir.tasks(parameters).table(parameters.runs)
        points = self.certified.points
        if table.models is not None:
            self.workdir.keep_models(parameters, table.models)
        pixels = [] if isinstance(points, Features) else points.pixels
        write_outputs(self.staging.partial, table.of(parameters, points.labels), pixels)

    def result(self, call: Call) -> CertifyResult:
        return read_result(
            self.out,
            runs_done_now=self.runs_done_now,
            already_complete=call.already_complete,
            seconds=call.seconds,
        )


def check_failed(failed: Mapping[int, str], done: Set[int], parameters: OwnParameters) -> None:
    """Refuse to go on where more than one run in twenty has no vote. Raises InputError.

    A run on some of the images may fail by what it took, and ending for that would choose among jobs: there a job ends
    only where nothing has ever worked.
    """
    runs = parameters.runs
    if not counts_images(parameters):
        hopeless, many = (
            len(failed) > MOST_FAILED * runs,
            f"{len(failed)} of {runs} runs failed, more than one in twenty",
        )
    else:
        hopeless = len(done) >= min(runs, FIRST_FAILED) and done <= failed.keys()
        many = f"all of the first {len(done)} runs failed"
    if hopeless:
        first = next(iter(failed.values()))
        raise InputError(
            f"{many}; the first: {first}",
            "mend what fails, then start again with --overwrite: runs done before and after must be alike",
        )


class _Teller:
    """Turns what is on the disk into progress, now and then. Raises InputError where too many runs failed."""

    def __init__(self, tasks: Any, parameters: OwnParameters, progress: Show, live: Any) -> None:
        self.tasks = tasks
        self.parameters = parameters
        self.progress = progress
        self.live = live
        self.finished = len(tasks.done())
        self.pace = Pace(self.finished)
        self.told = 0.0
        self.said: str | None = None
        self.said_at = time.monotonic()

    def __call__(self, last: bool = False) -> None:
        begun = time.monotonic()
        if not last and begun < self.told:
            return
        done = self.tasks.done()  # before what failed: a run's reason is written first, so none here can lack its own
        failed = self.tasks.failed()
        check_failed(failed, done, self.parameters)
        finished, total = max(self.finished, len(done)), self.parameters.runs
        if may_add_runs(self.parameters) and begun >= self.said_at + LIVE_SECONDS and (t := self.tasks.prefix()):
            self.said, self.said_at = self.live(self.parameters, t), time.monotonic()
        detail = ", ".join(filter(None, (f"{len(failed)} failed", self.said)))
        self.progress(Progress(finished, total, "runs", self.pace.seconds_left(finished, total), detail))
        self.finished = finished
        self.told = begun + max(0.5, 20 * (time.monotonic() - begun))  # a million files take a while to count
