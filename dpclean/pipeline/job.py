"""The story of one `sanitize` command: find what is there, begin or resume, work, finish."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from dpclean.build import build
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry, ancestry_of_data
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.names import to_text
from dpclean.data.sources import Source
from dpclean.errors import SHOWN_NAMES, ConflictError, InputError, InternalError, UsageError, remedy_where_none, told
from dpclean.jobs.checks import given_path, options_of
from dpclean.jobs.durable import remove_unfinished, writing
from dpclean.jobs.job import COMPLETE, Call, Hopeless, Job, Tell, run
from dpclean.jobs.key_file import read_key, write_key
from dpclean.jobs.record import Json, Record
from dpclean.noise.keys import commitment, draw_key, job_key
from dpclean.pipeline import example_images
from dpclean.pipeline.again import FINAL, begin_again
from dpclean.pipeline.ledger import DONE, LEFT_BEHIND, PENDING, Ledger, Listed
from dpclean.pipeline.listing import Listing, entry_of, other_content
from dpclean.pipeline.options import SanitizeKeywords, SanitizeOptions
from dpclean.pipeline.results import SanitizeDryRun, SanitizeResult
from dpclean.pipeline.save import write_outputs, write_with_sums
from dpclean.pipeline.work import too_many_bad, work_off
from dpclean.progress import Show
from dpclean.threads import computing_as_begun

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dpclean.denoise.denoiser import Denoiser
    from dpclean.denoise.loading import DenoiserFiles

LIBRARIES = ("torch", "diffusers", "numpy", "pillow", "safetensors")
SAMPLED_BY_PLAN = 64
LOOKED_AT_PIXELS = 1 << 26  # by a look ahead, at most, but for one image
TRIED_EDGE, TRIED_PIXELS = 512, 1 << 18  # of these, what is denoised to see how long it takes

REVEALED = "OUT is complete already, so nothing would be done but to write its key into it"


def sanitize(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sigma: float,
    progress: Show | bool | None = None,
    **options: Unpack[SanitizeKeywords],
) -> SanitizeResult:
    """Noise and denoise every image of RAW into OUT; the same call again goes on, or finds OUT complete.

    raw: a folder of images, a folder of *.safetensors shards, or one shard. out: a folder that does not exist.
    sigma: noise on the [0, 1] pixel scale. options: the fields of `SanitizeOptions`. progress: True shows
    a bar; a function is called with each step.
    Raises UsageError, InputError, SetupError, ConflictError, or Interrupted after a signal, each with a remedy.
    Source: "Diffusion Denoising as a Certified Defense against Clean-label Poisoning", arXiv 2403.11981, section 3.
    """
    asked = options_of(SanitizeOptions, "sanitize", {"sigma": sigma, **options})
    return run(SanitizeJob(Path(raw), Path(out), asked), overwrite=asked.overwrite, progress=progress)


def dry_run(
    raw: str | os.PathLike[str], out: str | os.PathLike[str], *, sigma: float, **options: Unpack[SanitizeKeywords]
) -> SanitizeDryRun:
    """What `sanitize` with the same arguments would do, from a look at the first images; writes nothing."""
    asked = options_of(SanitizeOptions, "sanitize", {"sigma": sigma, **options})
    if asked.redoes:
        raise UsageError("a dry run tells of a whole job, not of a part done anew", "leave out retry-bad and update")
    return SanitizeJob(Path(raw), Path(out), asked).look_ahead()


class SanitizeJob(Job[SanitizeResult]):
    kind = "sanitize"
    marks = (manifests.NAME,)

    pool: WorkerPool
    denoiser: Denoiser
    opened: ExitStack  # what is closed at the end
    ledger: Ledger

    def __init__(self, raw: Path, out: Path, options: SanitizeOptions) -> None:
        super().__init__(out)
        self.options = options
        self.raw = given_path(raw).resolve()
        self.complete: manifests.Manifest | None = None  # of an OUT of which a part is to be done anew
        self.bad: list[Listed] = []  # of it, what is to be tried again
        self.changed: list[Listed] = []  # and what has changed in RAW
        self.sanitized = 0  # by this call
        self.report: list[str] = []

    @property
    def ledger_path(self) -> Path:
        return self.staging.partial / manifests.LEDGER_NAME

    def inputs(self) -> list[str | os.PathLike[str]]:
        return [self.raw, self.options.denoiser]

    @cached_property
    def files(self) -> DenoiserFiles:
        from dpclean.denoise.loading import find_denoiser

        return find_denoiser(self.options.denoiser)

    @cached_property
    def inherited(self) -> Ancestry:
        """What RAW, if it is sanitized itself, and the denoiser were made of. What strangers wrote refuses nothing."""
        try:
            of_raw = ancestry_of_data(self.raw)
        except (InputError, ConflictError) as error:
            of_raw = Ancestry.unknown(error.message)
        return of_raw | self.files.ancestry()

    @cached_property
    def listing(self) -> Listing:
        return Listing(self.raw, self.options)

    @property
    def source(self) -> Source:
        return self.listing.source

    def parameters(self) -> Json:
        return {**self.options.identity(), "denoiser": self.files.id, "denoiser_digests": self._digests}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return self.files.digests()

    def environment(self) -> Json:
        """Device kind, type, shapes, threads and library versions."""
        import torch

        threads = torch.get_num_threads() if self.denoiser.device.type == "cpu" else None
        versions = {"dpclean": build()} | {name: metadata.version(name) for name in LIBRARIES}
        return {**self.denoiser.engine, "threads": threads, "versions": versions}

    # -- what is there already

    def made_with(self) -> Json:
        return self._manifest().parameters

    def _manifest(self) -> manifests.Manifest:
        manifest = manifests.read(self.out)
        assert manifest is not None  # it is a mark of OUT
        return manifest

    def reopens(self) -> bool:
        """Whether a part is to be done anew: what was bad, what has changed. Refuses changes that are not asked for."""
        manifest = self._manifest()
        demanded = self.options.demanded()
        self.refuse_others("was made", {name: getattr(manifest.denoiser, name) for name in demanded}, demanded)
        with closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
            bad = ledger.bad(but=FINAL) if self.options.retry_bad else ()
            self.bad, self.changed = self.listing.compare(ledger, self.out, bad)
            if self.changed and not self.options.update:
                more = "--update to do anew what has changed, " if not self.source.names_rows else ""
                raise other_content(self.out, self.changed, more)
        if self.bad or self.changed:
            if manifest.noise.key is not None:  # the noise must not be known before the data are fixed
                raise ConflictError(
                    f"the key of {str(self.out)!r} has been revealed: who changes an input now may know its noise",
                    "choose another --out, or --overwrite to make it anew",
                )
            self._key(manifest.noise.key_commitment)
            self.complete = manifest
            return True
        return False

    def _is_to_reveal(self) -> bool:
        """Whether the key of a complete OUT is asked for, and not there yet or only half."""
        manifest = self._manifest()
        unrevealed = manifest.noise.key is None or manifests.was_edited(self.out, manifest)
        return self.options.reveal_key and self.complete is None and unrevealed

    def _reveal(self, manifest: manifests.Manifest) -> None:
        """Write the key into the manifest of OUT, then the checksums, also where a kill came between the two."""
        revealed = manifests.with_key(manifest, self._key(manifest.noise.key_commitment))
        with writing(self.out), closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
            remove_unfinished(self.out, deep=False)
            write_with_sums(self.out, revealed, ledger)

    def goes_on(self, record: Record) -> bool:
        if self.complete is None:
            super().goes_on(record)
            with closing(Ledger(self.ledger_path)) as ledger:
                if changed := self.listing.compare(ledger, self.out)[1]:  # names, classes, and what has been read
                    raise other_content(self.out, changed)
            return True
        try:
            with closing(Ledger(self.ledger_path)) as ledger:
                changed = self.listing.compare(ledger, self.out)[1]
                return record.found.get("again") == self._again(self.complete) and not changed
        except ConflictError:  # OUT is whole, and what was left is not needed
            return False

    def _again(self, complete: manifests.Manifest) -> Json:
        """What is to be done anew, and of which OUT."""
        return {
            "output": complete.output.pixel_digest,
            "retry_bad": self.options.retry_bad,
            "update": self.options.update,
        }

    # -- begin, work, finish

    @contextmanager
    def ready(self, record: Record | None) -> Iterator[None]:
        """Readers, and the denoiser with the threads of what was begun, or of OUT where a part is to be done anew."""
        workers = self.options.workers or len(os.sched_getaffinity(0))
        assert self.source is not None and self.inherited is not None  # refused before anything is loaded
        begun = record.environment if record is not None else self._environment_of_complete()
        computing = computing_as_begun(begun, self.options.threads)  # looks for idle cores before there are workers
        with (
            WorkerPool(workers, self.options.data_options()) as self.pool,
            self._loaded(computing) as self.denoiser,
            ExitStack() as self.opened,
        ):
            yield

    @contextmanager
    def _loaded(self, computing: AbstractContextManager[None]) -> Iterator[Denoiser]:
        """The denoiser, inside of that."""
        o = self.options
        with ExitStack() as stack:
            try:
                from dpclean.denoise.denoiser import Denoiser

                stack.enter_context(computing)
                denoiser = Denoiser(
                    self.files, o.sigma, device=o.device, dtype=o.dtype, method=o.method, batch_pixels=o.batch_pixels
                )
            except (ImportError, OSError, RuntimeError):
                # libraries that do not belong together fail in many ways; the doctor knows what to say
                from dpclean.doctor import check_libraries

                check_libraries()
                raise
            yield denoiser

    def _environment_of_complete(self) -> Json | None:
        """What an OUT was made in of which a part is to be done anew; None where there is none."""
        if self.complete is None:
            return None
        with closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
            return ledger.known("environment", dict)

    def begin(self) -> Json:
        """Freeze the listing, then draw the key: the noise must not be known before the data are fixed."""
        if self.complete is not None:
            return self._begin_again(self.complete)
        with closing(Ledger(self.ledger_path)) as ledger, ledger.transaction():
            ledger.freeze(self.listing.rows())
            ledger.set("environment", self.environment())
            ledger.set("retried", 0)
        key = job_key(self.options.seed, "sanitize")
        write_key(self.staging.key, key)
        return {"key_commitment": commitment(key)}

    def _begin_again(self, complete: manifests.Manifest) -> Json:
        """OUT once more, with what is to be done anew pending, for an engine that makes the same bytes."""
        self.refuse_elsewhere(self._environment_of_complete() or {})
        begin_again(self.staging, self.bad + self.changed)
        return {"key_commitment": complete.noise.key_commitment, "again": self._again(complete)}

    def work(self, record: Record, stop: threading.Event, tell: Tell) -> bool:
        ledger = self.ledger = self.opened.enter_context(closing(Ledger(self.ledger_path)))
        key, before = self._key(record.found["key_commitment"]), ledger.count(DONE)
        kept = map(example_images.entry_of, ledger.done())
        self.sink = self.source.make_sink(self.staging.partial, self.pool, kept)
        if ledger.count(PENDING) > 0:
            samples = self.source.samples(map(entry_of, ledger.listing(pending=True)), self.pool)
            work_off(samples, self.denoiser, self.sink, ledger, self.options, key, stop, tell)
        if (pending := ledger.count(PENDING)) > 0:
            raise InternalError(f"{pending} inputs have no answer", "please report it; the same command goes on")
        if self.complete is not None and not self.changed and ledger.count(DONE) == self.complete.output.images:
            return False
        self._check_bad(ledger.reasons(), ledger.count() - ledger.count(LEFT_BEHIND))
        if ledger.count(DONE) == 0:
            names = [to_text(name) for name, _ in itertools.islice(ledger.quarantined(), SHOWN_NAMES + 1)]
            why = f" ({told(ledger.reasons(), names)})" if names else ""
            message = f"none of the {ledger.count()} files in {str(self.raw)!r} is an image that can be used{why}"
            raise Hopeless(InputError(message, remedy_where_none(ledger.reasons(), "look at RAW")))
        self.sanitized = ledger.count(DONE) - before
        return True

    def save(self, record: Record) -> None:
        self.sink.finish()
        write_outputs(
            self.staging.partial,
            self.out,
            self.raw,
            ledger=self.ledger,
            source=self.source,
            denoiser=self.denoiser,
            options=self.options,
            key=(key := self._key(record.found["key_commitment"])),
            inherited=self.inherited,
            record=record,
            rows=self.sink.read_back(),
        )
        if self.options.report:
            example_images.write_pages(self.out, self.ledger, self.source, self.pool, self.denoiser, key)
            self.report = [str(page) for page in example_images.pages(self.out)]

    def _check_bad(self, reasons: Mapping[str, int], images: int) -> None:
        """Refuse where more of the inputs that claim to be images are bad than --max-bad allows; at every end."""
        if sum(reasons.values()) > self.options.bad_limit(images):
            raise too_many_bad(reasons, images, self.options.max_bad)

    def _key(self, expected: str | None) -> bytes:
        key = read_key(self.staging.key)
        if commitment(key) != expected:
            raise ConflictError(
                f"the key file {str(self.staging.key)!r} is of another job",
                "put the right key back, or start again with --overwrite",
            )
        return key

    def result(self, call: Call) -> SanitizeResult:
        manifest, report, hidden = self._manifest(), self.report, 0
        if call.already_complete:
            self._check_bad(manifest.quarantined, manifest.raw.listed - manifest.left_behind)
            if self._is_to_reveal():
                self._reveal(manifest)
            report = [str(page) for page in example_images.pages(self.out) if page.exists()]
        else:
            hidden = self.source.hidden
        return SanitizeResult(
            out=str(self.out),
            sigma=manifest.noise.sigma,
            images=manifest.output.images,
            quarantined=manifest.quarantined,
            left_behind=manifest.left_behind,
            hidden=hidden,
            not_finite_retried=manifest.not_finite_retried,
            already_complete=call.already_complete,
            seconds=round(call.seconds, 3),
            images_per_second=round(self.sanitized / call.seconds, 2),
            device=manifest.denoiser.device,
            dtype=manifest.denoiser.dtype,
            kernel=manifest.host["kernel"],
            warnings=[*_warnings(manifest), *self._remarks(call, manifest)],
            report=report,
        )

    def _remarks(self, call: Call, manifest: manifests.Manifest) -> list[str]:
        """On this call, one sentence each."""
        listed = manifest.raw.listed
        if call.already_complete:
            still = f"tried again, and still of no use: {len(self.bad)} of {listed} inputs; OUT is as it was"
            return [still] if self.complete is not None else []
        remarks = self.source.remarks() + self.source.not_carried() + self.pool.remarks()
        if self.complete is not None:
            redone = len(self.bad) + len(self.changed)
            remarks.append(f"done anew: {redone} of {listed} inputs; all other files are the same as before")
        return remarks

    # -- the look ahead

    def look_ahead(self) -> SanitizeDryRun:
        complete = self.foresee(overwrite=self.options.overwrite)
        source = self.source
        listed = sum(1 for _ in self.listing.entries())
        computing = computing_as_begun(None, self.options.threads)
        with WorkerPool(1, self.options.data_options()) as pool, self._loaded(computing) as denoiser:
            first = itertools.islice(self.listing.entries(), SAMPLED_BY_PLAN)
            sampled = pixels = values = tried = 0
            usable: list[tuple[int, NDArray[np.uint8]]] = []  # none larger than a few tiles, together a few batches
            for sample in source.samples(first, pool):
                sampled += 1
                if sample.pixels is None:
                    continue
                height, width, _ = sample.pixels.shape
                pixels, values = pixels + height * width, values + sample.pixels.size
                part = sample.pixels[:TRIED_EDGE, :TRIED_EDGE].copy()
                usable.append((sample.entry.index, part if tried < TRIED_PIXELS else part[:0]))
                tried += usable[-1][1].shape[0] * part.shape[1]
                if pixels > LOOKED_AT_PIXELS:
                    break
            pairs = [pair for pair in usable if pair[1].size]
            key = draw_key()
            list(denoiser.denoise(pairs, key=key))  # the first pass pays for what is set up once
            begun = time.monotonic()
            list(denoiser.denoise(pairs, key=key))
            seconds = (time.monotonic() - begun) * pixels / max(1, tried)
        share = listed / max(1, sampled)
        return SanitizeDryRun(
            out=str(self.out),
            listed=listed,
            classes=list(source.classes),
            kind=source.kind,
            sampled=sampled,
            unusable_in_sample=sampled - len(usable),
            megapixels=round(pixels * share / 1e6, 3),
            seconds=round(seconds * share, 1),
            bytes=int(values * share),
            warnings=[REVEALED if self._is_to_reveal() else COMPLETE] if complete else [],
        )


def _warnings(manifest: manifests.Manifest) -> list[str]:
    empty = [name for name, count in manifest.images_by_class.items() if count == 0]
    named = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    warnings = [f"classes without images, and so without a folder in OUT: {named}"] if empty else []
    if not manifest.sanitized:
        warnings.append("sigma is 0: no noise was added, the data are not sanitized")
    if manifest.output.unsanitized:
        warnings.append(f"copied as they are, unsanitized: {', '.join(manifest.output.unsanitized)}")
    return warnings
