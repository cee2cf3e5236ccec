"""The story of one `sanitize` command: find what is there, begin or resume, work, finish."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from dpclean.build import build
from dpclean.data.ancestry import Ancestry, ancestry_of_data
from dpclean.data.digest import pixel_sha256
from dpclean.data.names import to_bytes, to_text
from dpclean.data.selection import check_sample, selected
from dpclean.data.sink import open_sink
from dpclean.data.source import Entry, Sample, Source, open_source
from dpclean.data.workers import WorkerPool
from dpclean.errors import ConflictError, InputError, InternalError, Reason, UsageError
from dpclean.given import given_path, options_of
from dpclean.jobs import manifest as manifests
from dpclean.jobs.key_file import read_key, write_key
from dpclean.jobs.ledger import AGAIN, DONE, LEFT_BEHIND, PENDING, QUARANTINED, Ledger, Listed, Stamp
from dpclean.jobs.staging import Staging
from dpclean.noise.keys import commitment, draw_key, key_from_seed
from dpclean.pipeline import sheet
from dpclean.pipeline.again import FINAL, begin_again
from dpclean.pipeline.options import Given, Options
from dpclean.pipeline.results import Plan, SanitizeResult
from dpclean.pipeline.seal import check_rows, seal, write_with_sums
from dpclean.pipeline.work import told, too_many_bad, work_off
from dpclean.progress import Progress, shown_as_asked
from dpclean.threads import choose_threads, computing_with

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dpclean.denoise.denoiser import Denoiser
    from dpclean.denoise.loading import DenoiserFiles

LIBRARIES = ("torch", "diffusers", "numpy", "pillow", "safetensors")
SAMPLED_BY_PLAN = 64
LOOKED_AT_PIXELS = 1 << 26  # by a look ahead, at most, but for one image
TRIED_EDGE, TRIED_PIXELS = 512, 1 << 18  # of these, what is denoised to see how long it takes


def sanitize(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sigma: float,
    progress: Callable[[Progress], None] | bool | None = None,
    **options: Unpack[Given],
) -> SanitizeResult:
    """Noise and denoise every image of RAW into OUT; the same call again goes on, or finds OUT complete.

    raw: a folder of images, a folder of *.safetensors shards, or one shard. out: a folder that does not exist.
    sigma: noise on the [0, 1] pixel scale. options: the fields of `dpclean.pipeline.options.Options`. progress: True
    shows a bar; a function is called with each step.
    Raises UsageError, InputError, SetupError, ConflictError, or Interrupted after a signal, each with a remedy.
    Source: "Diffusion Denoising as a Certified Defense against Clean-label Poisoning", arXiv 2403.11981, section 3.
    """
    asked = options_of(Options, "sanitize", {"sigma": sigma, **options})
    with shown_as_asked(progress) as show:
        job = _Job(Path(raw), Path(out), asked, show)
        with job.staging:
            return job.run()


def plan(raw: str | os.PathLike[str], out: str | os.PathLike[str], *, sigma: float, **options: Unpack[Given]) -> Plan:
    """What `sanitize` with the same arguments would do, from a look at the first images; writes nothing."""
    asked = options_of(Options, "sanitize", {"sigma": sigma, **options})
    if asked.redoes:
        raise UsageError("a dry run tells of a whole job, not of a part done anew", "leave out retry-bad and update")
    return _Job(Path(raw), Path(out), asked, lambda _: None).plan()


class _NothingUsable(InputError):
    """No input is an image that can be used."""


class _NothingGained(Exception):
    """No input that was tried again is one that can be used; OUT, complete as it was, has this manifest."""

    def __init__(self, complete: manifests.Manifest) -> None:
        super().__init__()
        self.complete = complete


class _Job:
    """One command's paths and options, and the steps from listing to commit."""

    def __init__(self, raw: Path, out: Path, options: Options, progress: Callable[[Progress], None]) -> None:
        self.options = options
        self.progress = progress
        self.staging = Staging(out)
        self.out = self.staging.out
        self.raw = given_path(raw).resolve()
        self.inherited = Ancestry()
        self.bad: list[Listed] = []  # of a complete OUT: what is to be tried again
        self.changed: list[Listed] = []  # of a complete OUT: what is to be done anew, as it has changed in RAW
        self.begun = time.monotonic()
        self.staging.check_apart(self.raw, options.denoiser)

    def run(self) -> SanitizeResult:
        """The result, whether the work is done now, was begun earlier, or had been finished before."""
        complete = self._finished()
        if complete is not None and not self.bad and not self.changed:
            return self._already_complete(complete)
        source = self._source()
        files, parameters = self._parameters()
        self.inherited = _inherited(self.raw, files)
        ledger_path = self.staging.partial / manifests.LEDGER_NAME
        if complete is None:
            resuming = ledger_path.exists() and self._check_begun(ledger_path, parameters)
        else:
            resuming = ledger_path.exists() and self._goes_on_again(ledger_path, source, complete)
        workers = self.options.workers or len(os.sched_getaffinity(0))
        try:
            threads = choose_threads(self.options.threads)
            with (
                WorkerPool(workers, self.options.read_options()) as pool,
                self._loaded(files, threads) as denoiser,
            ):
                if complete is not None and not resuming:
                    with closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
                        self._check_engine(ledger, _engine(denoiser))
                    begin_again(self.staging, self.bad + self.changed, self._again(complete))
                elif not resuming:
                    self._begin(ledger_path, source, parameters, _engine(denoiser))
                with closing(Ledger(ledger_path)) as ledger:
                    self._check_engine(ledger, _engine(denoiser))
                    if resuming:
                        self._check_listing(ledger, source)
                    key = self._key(ledger.known("key_commitment", str))
                    manifest, sanitized, pages = self._work(ledger, source, pool, denoiser, key, complete)
        except _NothingUsable:
            # nothing can come of it; the workers, who may still be writing, are gone by now
            self.staging.discard(keep_key=complete is not None)
            raise
        except _NothingGained as nothing:
            self.staging.discard(keep_key=True)
            counts = f"{len(self.bad)} of {nothing.complete.raw.listed} inputs"
            remark = f"tried again, and still of no use: {counts}; OUT is as it was"
            return self._already_complete(nothing.complete, [remark])
        self.staging.commit()
        remarks = source.remarks() + pool.remarks()
        if complete is not None:
            redone = len(self.bad) + len(self.changed)
            remarks.append(
                f"done anew: {redone} of {manifest.raw.listed} inputs; all other files are the same as before"
            )
        return self._result(manifest, sanitized=sanitized, hidden=source.hidden, remarks=remarks, report=pages)

    # -- what is there already

    def _finished(self) -> manifests.Manifest | None:
        """The manifest of a complete OUT; None where there is work to do. Refuses an OUT that is something else."""
        if not self.out.exists():
            return None
        if not self.out.is_dir():
            raise ConflictError(f"{str(self.out)!r} is a file", "choose another --out")
        manifest = manifests.read(self.out)
        if manifest is None:
            if any(self.out.iterdir()):
                raise ConflictError(
                    f"{str(self.out)!r} is not empty and was not made by dpclean", "choose another --out"
                )
            return None
        if self.options.overwrite:
            return None
        _, parameters = self._parameters()
        made = {"device": manifest.denoiser.device, "dtype": manifest.denoiser.dtype}
        made["batch_pixels"] = manifest.denoiser.batch_pixels  # type: ignore[assignment]
        demanded = self.options.demanded()
        changed = _changes(manifest.parameters, parameters) + _changes({n: made[n] for n in demanded}, demanded)
        if changed:
            raise ConflictError(
                f"{str(self.out)!r} was made with {_tell(changed, 0)}; this command asks for {_tell(changed, 1)}",
                "choose another --out, or --overwrite to make it anew",
            )
        with closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
            source = self._source()
            bad = ledger.bad(but=FINAL) if self.options.retry_bad else ()
            self.bad, self.changed = self._compare(ledger, source, bad)
            if self.changed and not self.options.update:
                more = "--update to do anew what has changed, " if source.kind == "folder" else ""
                self._refuse_changed(self.changed, more)
        if self.bad or self.changed:
            if manifest.noise.key is not None:  # the noise must not be known before the data are fixed
                raise ConflictError(
                    f"the key of {str(self.out)!r} has been revealed: who changes an input now may know its noise",
                    "choose another --out, or --overwrite to make it anew",
                )
            self._key(manifest.noise.key_commitment)
            return manifest
        return self._revealed(manifest) if self.options.reveal_key else manifest

    def _again(self, complete: manifests.Manifest) -> dict[str, Any]:
        """What is to be done anew, and of which OUT."""
        return {
            "output": complete.output.pixel_digest,
            "retry_bad": self.options.retry_bad,
            "update": self.options.update,
        }

    def _goes_on_again(self, ledger_path: Path, source: Source, complete: manifests.Manifest) -> bool:
        """Whether what was left is of this OUT, for the same purpose, and of RAW as it is now."""
        try:
            with closing(Ledger(ledger_path)) as ledger:
                return ledger.get(AGAIN, dict) == self._again(complete) and not self._compare(ledger, source)[1]
        except ConflictError:  # OUT is whole, and what was left is not needed
            return False

    def _check_begun(self, ledger_path: Path, parameters: dict[str, Any]) -> bool:
        """Whether to go on with what an interrupted job left; refuses changed parameters."""
        if self.options.overwrite:
            return False
        with closing(Ledger(ledger_path)) as ledger:
            begun = ledger.get("parameters", dict)
        if begun is None:  # killed before the key was drawn: nothing to go on with
            return False
        changed = _changes(begun, parameters)
        if changed:
            raise ConflictError(
                f"{str(self.out)!r} was begun with {_tell(changed, 0)}; this command asks for {_tell(changed, 1)}",
                "choose another --out, or --overwrite to start again",
            )
        return True

    def _check_engine(self, ledger: Ledger, engine: dict[str, Any]) -> None:
        """Refuse where this process would not do what the job began."""
        changed = _changes(ledger.known("engine", dict), engine)
        if changed:
            raise ConflictError(
                f"{str(self.out)!r} was begun with {_tell(changed, 0)}; here it would go on with {_tell(changed, 1)}",
                "go on where it was begun, or --overwrite to start again",
            )

    def _check_listing(self, ledger: Ledger, source: Source) -> None:
        """Refuse where RAW is not what it was when the listing was frozen: names, classes, and what has been read."""
        if changed := self._compare(ledger, source)[1]:
            self._refuse_changed(changed)

    def _compare(
        self, ledger: Ledger, source: Source, positions: Collection[int] = ()
    ) -> tuple[list[Listed], list[Listed]]:
        """The rows at these positions, and of the others those with other content, as RAW lists them now.

        A file is read again where its size or time is another, or where digests are asked for; what counts is what is
        in it. Refuses other names and classes.
        """
        asked: list[Listed] = []
        suspects: list[Listed] = []
        for now, row in itertools.zip_longest(self._stamped(source), ledger.listing()):
            new = None if now is None else (to_bytes(now[0].name), now[0].label)
            old = None if row is None else (row.name, row.label)
            if new != old:
                raise self._other_raw(_what_changed(new, old, self.options.sample))
            if row.position in positions:
                asked.append(_listed(*now))
            elif now[1] != row.stamp or self.options.check_raw:
                suspects.append(_listed(*now))
        if not suspects:
            return asked, []
        with WorkerPool(self.options.workers or len(os.sched_getaffinity(0)), self.options.read_options()) as pool:
            samples = source.samples(map(_entry_of, suspects), pool)
            changed = {s.entry.index for s in samples if not _is_as_seen(s, *ledger.seen(s.entry.index))}
        return asked, [row for row in suspects if row.position in changed]

    def _refuse_changed(self, changed: Sequence[Listed], remedy: str = "") -> NoReturn:
        first = ", ".join(repr(to_text(row.name)) for row in changed[:3])
        raise self._other_raw(
            f"other content in {first}" + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""),
            remedy,
        )

    def _other_raw(self, what: str, remedy: str = "") -> ConflictError:
        return ConflictError(
            f"RAW has changed since {str(self.out)!r} was begun: {what}",
            f"restore it, choose another --out, {remedy}or --overwrite to start again",
        )

    # -- begin, work, finish

    def _source(self) -> Source:
        source = open_source(self.raw, self.options.read_options())
        check_sample(source, self.options.sample)
        if source.kind == "shards" and self.options.redoes:
            raise UsageError(
                "retry-bad and update are for folders of images: of shards every file would be written anew",
                "leave them out, or choose another --out",
            )
        return source

    def _entries(self, source: Source) -> Iterator[Entry]:
        """What RAW holds now; once the job has begun, the ledger's listing alone counts."""
        return selected(source, self.options.limit, self.options.sample)

    def _stamped(self, source: Source) -> Iterator[tuple[Entry, Stamp]]:
        """The listing, with size and time of the last change of each entry's file."""
        last: str | None = None
        stamp: Stamp = (None, None)
        for entry in self._entries(source):
            name = entry.target if source.kind == "shards" else entry.name
            if name != last:
                last, stamp = name, _stamp(source.root, name)
            yield entry, stamp

    def _parameters(self) -> tuple[DenoiserFiles, dict[str, Any]]:
        from dpclean.denoise.loading import find_denoiser

        files = find_denoiser(self.options.denoiser)
        return files, {**self.options.identity(), "denoiser": files.id, "denoiser_digests": files.digests()}

    @contextmanager
    def _loaded(self, files: DenoiserFiles, threads: int | None) -> Iterator[Denoiser]:
        """The denoiser, while so many threads compute; the bytes do not depend on their number."""
        o = self.options
        with ExitStack() as stack:
            try:
                from dpclean.denoise.denoiser import Denoiser

                stack.enter_context(computing_with(threads))
                denoiser = Denoiser(
                    files, o.sigma, device=o.device, dtype=o.dtype, method=o.method, batch_pixels=o.batch_pixels
                )
            except (ImportError, OSError, RuntimeError):
                # libraries that do not belong together fail in many ways; the doctor knows what to say
                from dpclean.doctor import check_libraries

                check_libraries()
                raise
            yield denoiser

    def _begin(self, ledger_path: Path, source: Source, parameters: dict[str, Any], engine: dict[str, Any]) -> None:
        """Freeze the listing, then draw the key: the noise must not be known before the data are fixed."""
        self.staging.start()
        with closing(Ledger(ledger_path)) as ledger, ledger.transaction():
            ledger.freeze(itertools.starmap(_listed, self._stamped(source)))
            seed = self.options.seed
            key = draw_key() if seed is None else key_from_seed(seed, "sanitize")
            write_key(self.staging.key, key)
            ledger.set("parameters", parameters)
            ledger.set("engine", engine)
            ledger.set("key_commitment", commitment(key))
            ledger.set("retried", 0)

    def _work(
        self,
        ledger: Ledger,
        source: Source,
        pool: WorkerPool,
        denoiser: Denoiser,
        key: bytes,
        complete: manifests.Manifest | None,
    ) -> tuple[manifests.Manifest, int, list[str]]:
        """Do what is pending and seal it: (manifest, images sanitized by this call, pages of the report).

        complete: the manifest of the OUT of which a part is done anew.
        """
        kept = map(sheet.entry_of, ledger.done())
        sink = open_sink(source, self.staging.partial, self.options.read_options(), pool, kept)
        before = ledger.count(DONE)
        if ledger.count(PENDING) > 0:
            samples = source.samples(map(_entry_of, ledger.listing(pending=True)), pool)
            work_off(samples, denoiser, sink, ledger, self.options, key, self.progress)
        if (pending := ledger.count(PENDING)) > 0:
            raise InternalError(f"{pending} inputs have no answer", "please report it; the same command goes on")
        if complete is not None and not self.changed and ledger.count(DONE) == complete.output.images:
            raise _NothingGained(complete)
        self._check_bad(ledger.reasons(), ledger.count() - ledger.count(LEFT_BEHIND))
        if ledger.count(DONE) == 0:
            why = f" ({told(reasons)}: {_first_names(ledger)})" if (reasons := ledger.reasons()) else ""
            raise _NothingUsable(
                f"none of the {ledger.count()} files in {str(self.raw)!r} is an image that can be used{why}",
                "look at RAW",
            )
        sink.finish()
        if source.kind == "shards":  # of image files the sums are compared
            check_rows(self.staging.partial, ledger, self.options.read_options(), pool)
        manifest = seal(
            self.staging.partial, self.out, self.raw, ledger, source, denoiser, self.options, key, self.inherited
        )
        pages: list[str] = []
        if self.options.report:
            sheet.write_pages(self.out, ledger, source, pool, denoiser, key)
            pages = [str(page) for page in sheet.pages(self.out)]
        return manifest, manifest.output.images - before, pages

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

    def _revealed(self, manifest: manifests.Manifest) -> manifests.Manifest:
        """The manifest with the key in it, written to a finished OUT."""
        if manifest.noise.key is None:
            manifest = manifests.with_key(manifest, self._key(manifest.noise.key_commitment))
            with closing(Ledger(self.out / manifests.LEDGER_NAME, writable=False)) as ledger:
                write_with_sums(self.out, manifest, ledger)
        return manifest

    def _already_complete(self, manifest: manifests.Manifest, remarks: Sequence[str] = ()) -> SanitizeResult:
        self._check_bad(manifest.quarantined, manifest.raw.listed - manifest.left_behind)
        pages = [str(page) for page in sheet.pages(self.out) if page.exists()]
        return self._result(manifest, already_complete=True, remarks=remarks, report=pages)

    def _result(
        self,
        manifest: manifests.Manifest,
        *,
        report: list[str],
        already_complete: bool = False,
        sanitized: int = 0,
        hidden: int = 0,
        remarks: Sequence[str] = (),
    ) -> SanitizeResult:
        seconds = time.monotonic() - self.begun
        return SanitizeResult(
            out=str(self.out),
            sigma=manifest.noise.sigma,
            images=manifest.output.images,
            quarantined=manifest.quarantined,
            left_behind=manifest.left_behind,
            hidden=hidden,
            not_finite_retried=manifest.not_finite_retried,
            already_complete=already_complete,
            seconds=round(seconds, 3),
            images_per_second=round(sanitized / seconds, 2),
            device=manifest.denoiser.device,
            dtype=manifest.denoiser.dtype,
            kernel=manifest.host["kernel"],
            warnings=[*_warnings(manifest), *remarks],
            report=report,
        )

    # -- the look ahead

    def plan(self) -> Plan:
        source = self._source()
        listed = sum(1 for _ in self._entries(source))
        threads = choose_threads(self.options.threads)
        with (
            WorkerPool(1, self.options.read_options()) as pool,
            self._loaded(self._parameters()[0], threads) as denoiser,
        ):
            first = itertools.islice(self._entries(source), SAMPLED_BY_PLAN)
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
        return Plan(
            out=str(self.out),
            listed=listed,
            classes=list(source.classes),
            kind=source.kind,
            sampled=sampled,
            unusable_in_sample=sampled - len(usable),
            megapixels=round(pixels * share / 1e6, 3),
            seconds=round(seconds * share, 1),
            bytes=int(values * share),
        )


def _listed(e: Entry, stamp: Stamp) -> Listed:
    return Listed(e.index, to_bytes(e.name), e.label, to_bytes(e.target), e.reason, stamp)


def _entry_of(row: Listed) -> Entry:
    reason = None if row.reason is None else Reason(row.reason)
    return Entry(row.position, to_text(row.name), row.label, to_text(row.target), reason)


def _inherited(raw: Path, files: DenoiserFiles) -> Ancestry:
    """What RAW, if it is sanitized itself, and the denoiser were made of. What strangers wrote refuses nothing."""
    try:
        of_raw = ancestry_of_data(raw)
    except (InputError, ConflictError) as error:
        of_raw = Ancestry.unknown(error.message)
    return of_raw | files.ancestry()


def _stamp(root: Path, name: str) -> Stamp:
    try:
        found = os.stat(os.path.join(os.fsencode(root), to_bytes(name)))
    except OSError:
        return None, None
    return found.st_size, found.st_mtime_ns


def _is_as_seen(sample: Sample, status: str, reason: str | None, raw_sha256: bytes | None) -> bool:
    """Whether a sample is what the ledger says was read; of one that is pending it says nothing yet."""
    if status == PENDING:
        return True
    if sample.pixels is not None:
        return pixel_sha256(sample.pixels) == raw_sha256
    return (status, reason) == ((LEFT_BEHIND, None) if sample.left_behind else (QUARANTINED, sample.reason))


def _first_names(ledger: Ledger) -> str:
    """The first inputs that were left out, by name."""
    first = [repr(to_text(name)) for name, _ in itertools.islice(ledger.quarantined(), 4)]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _engine(denoiser: Denoiser) -> dict[str, Any]:
    """What decides the bytes beside the options: device kind, type, shapes and library versions."""
    return {
        **denoiser.engine,
        "versions": {"dpclean": build()} | {name: metadata.version(name) for name in LIBRARIES},
    }


Changes = list[tuple[str, Any, Any]]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    return [(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]


def _tell(changed: Changes, side: int) -> str:
    return ", ".join(f"{name.replace('_', '-')} {_short(values[side])}" for name, *values in changed)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {str(item)[:16]}" for name, item in sorted(value.items())) + ")"
    return "none" if value is None or value == [] else str(value)


def _what_changed(new: tuple[bytes, int] | None, old: tuple[bytes, int] | None, sample: int | None) -> str:
    """In words, where two listings in byte order first differ."""
    if sample is not None:  # what is missing from the sample need not be missing from RAW
        return f"it has other files or classes, of which --sample {sample} would take others"
    if old is None or (new is not None and new[0] < old[0]):
        assert new is not None
        return f"{to_text(new[0])!r} has been added"
    if new is None or new[0] != old[0]:
        return f"{to_text(old[0])!r} is gone"
    return f"{to_text(new[0])!r} has another class"


def _warnings(manifest: manifests.Manifest) -> list[str]:
    empty = [name for name, count in manifest.images_by_class.items() if count == 0]
    named = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    warnings = [f"classes without images, and so without a folder in OUT: {named}"] if empty else []
    if not manifest.sanitized:
        warnings.append("sigma is 0: no noise was added, the data are not sanitized")
    if manifest.output.unsanitized:
        warnings.append(f"copied as they are, unsanitized: {', '.join(manifest.output.unsanitized)}")
    return warnings
