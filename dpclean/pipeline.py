"""Sanitize a data set: the one place where data, noise, denoiser and job meet."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpclean.data.digest import PixelDigest, pixel_sha256
from dpclean.data.sink import Sink, open_sink
from dpclean.data.source import Entry, ReadOptions, Sample, Source, open_source
from dpclean.data.workers import WorkerPool
from dpclean.errors import ConflictError, DpcleanError, InputError, Interrupted, Reason, UsageError
from dpclean.jobs import manifest as manifests
from dpclean.jobs.key_file import read_key, write_key
from dpclean.jobs.ledger import DONE, LEFT_BEHIND, QUARANTINED, Ledger, Listed, Outcome
from dpclean.jobs.staging import Staging, write_durably
from dpclean.noise import SIGMA_MAX, kernel_name
from dpclean.noise.keys import commitment, draw_key, key_from_seed

if TYPE_CHECKING:
    from dpclean.denoise.denoiser import Denoised, Denoiser
    from dpclean.denoise.loading import DenoiserFiles

SANITIZE_RUN = 0  # certify uses runs 1..n
NOISE_SPECIFICATION = 1
# a chunk is what is denoised and committed together; its bounds depend on the listing and the sizes of images only
CHUNK_SAMPLES = 512
CHUNK_PIXELS = 1 << 24
COMMIT_SECONDS = 2.0
LIBRARIES = ("torch", "diffusers", "numpy", "pillow", "safetensors")
FORMATS = ("png", "webp", "same")
ALPHA_POLICIES = ("composite", "drop", "keep", "reject")
LAYOUTS = ("nhwc", "nchw")


@dataclass(frozen=True)
class Options:
    """What `sanitize` can be asked for; the defaults are those of the command line."""

    sigma: float
    denoiser: str = "natural"
    method: str = "one-step"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    seed: int | None = None
    reveal_key: bool = False
    format: str = "png"
    alpha_policy: str = "composite"
    layout: str | None = None
    carry: tuple[str, ...] = ()
    follow_links: bool = False
    max_bad: str = "100%"
    max_pixels: int = 100_000_000
    decode_timeout: float = 30.0
    decode_memory: int = 1 << 30
    limit: int | None = None
    overwrite: bool = False
    report: bool = False

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        for name, known in (("format", FORMATS), ("alpha_policy", ALPHA_POLICIES), ("layout", (None, *LAYOUTS))):
            if getattr(self, name) not in known:
                choices = ", ".join(k for k in known if k)
                raise UsageError(f"{name.replace('_', '-')} {getattr(self, name)!r} is not known", f"give one of: {choices}")
        for name in ("batch_size", "workers", "limit", "max_pixels", "decode_timeout", "decode_memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name.replace('_', '-')} must be above 0, got {value}", "give a larger number")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise UsageError(f"seed must be from 0 to 2^64 - 1, got {self.seed}", "give a smaller number, or no seed")
        _bad_limit(self.max_bad, 1)

    def read_options(self) -> ReadOptions:
        """The part that reading needs."""
        return ReadOptions(
            alpha_policy=self.alpha_policy,
            max_pixels=self.max_pixels,
            decode_timeout=self.decode_timeout,
            decode_memory=self.decode_memory,
            follow_links=self.follow_links,
            layout=self.layout,
            output_format=self.format,
            carry=self.carry,
        )

    def parameters(self) -> dict[str, Any]:
        """The options that change what the data are; a resumed job must have the same."""
        kept = ("sigma", "denoiser", "method", "seed", "format", "alpha_policy", "layout", "carry", "follow_links", "max_pixels", "limit")
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in kept}

    def demanded(self) -> dict[str, Any]:
        """What was asked of the engine by name, where the default would have chosen."""
        asked = {"device": self.device, "dtype": self.dtype, "batch_pixels": _batch_pixels(self.batch_size)}
        return {name: value for name, value in asked.items() if value not in ("auto", None)}


@dataclass(frozen=True)
class Progress:
    """How far a job is: samples done with, of the listing, and how many of them were left out."""

    finished: int
    total: int
    quarantined: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class SanitizeResult:
    """What `sanitize` did."""

    out: str
    sigma: float
    images: int
    quarantined: dict[str, int]
    left_behind: int
    hidden: int
    not_finite_retried: int
    already_complete: bool
    seconds: float
    images_per_second: float
    device: str
    dtype: str
    kernel: str
    warnings: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "sanitize", **asdict(self)}


@dataclass(frozen=True)
class Plan:
    """What `sanitize` would do, from --dry-run."""

    out: str
    listed: int
    classes: list[str]
    kind: str
    sampled: int
    unusable_in_sample: int
    megapixels: float
    seconds: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "sanitize", "dry_run": True, **asdict(self)}


def check_sigma(sigma: float) -> None:
    """Raise UsageError for a noise level that noise.md does not define."""
    if not (isinstance(sigma, (int, float)) and 0 <= sigma <= SIGMA_MAX):
        raise UsageError(
            f"sigma must be from 0 to {SIGMA_MAX:g} on the [0, 1] pixel scale, got {sigma}",
            "0.25 is a common choice; 0 adds no noise",
        )


def sanitize(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sigma: float,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> SanitizeResult:
    """Noise and denoise every image of RAW into OUT; the same call again goes on, or finds OUT complete.

    raw: a folder of images, or a folder of *.safetensors shards, or one shard. out: a folder that does not exist.
    sigma: noise on the [0, 1] pixel scale. options: the fields of `Options`.
    Raises UsageError, InputError, SetupError, ConflictError, or Interrupted after a signal, each with a remedy.
    Source: "Diffusion Denoising as a Certified Defense against Clean-label Poisoning", arXiv 2403.11981, section 3.
    """
    job = _Job(Path(raw), Path(out), Options(sigma=sigma, **options), progress or (lambda _: None))
    with job.staging:
        return job.run()


def plan(raw: str | os.PathLike[str], out: str | os.PathLike[str], *, sigma: float, **options: Any) -> Plan:
    """What `sanitize` with the same arguments would do, from a look at the first images; writes nothing."""
    job = _Job(Path(raw), Path(out), Options(sigma=sigma, **options), lambda _: None)
    return job.plan()


class _Job:
    """One sanitize job: its paths, its options, and the steps from listing to commit."""

    def __init__(self, raw: Path, out: Path, options: Options, progress: Callable[[Progress], None]) -> None:
        self.options = options
        self.progress = progress
        self.staging = Staging(out)
        self.raw = raw.expanduser().resolve()
        self.started = time.monotonic()
        _check_places(self.raw, self.staging.out)

    def source(self) -> Source:
        return open_source(self.raw, self.options.read_options())

    def entries(self, source: Source, start: int = 0) -> Iterator[Entry]:
        return itertools.islice(source.entries(), start, self.options.limit)

    # -- the three ways a command can begin

    def run(self) -> SanitizeResult:
        finished = self._finished()
        if finished is not None:
            return finished
        source = self.source()
        files, parameters = self._denoiser_parameters()
        ledger_path = self.staging.partial / manifests.LEDGER_NAME
        resuming = ledger_path.exists() and not self._start_again(ledger_path, parameters)
        workers = self.options.workers or max(1, len(os.sched_getaffinity(0)))
        with WorkerPool(workers, self.options.read_options()) as pool:
            denoiser = self._load(files)
            engine = _engine(denoiser)
            if not resuming:
                self._begin(ledger_path, source, parameters, engine)
            ledger = Ledger(ledger_path)
            try:
                key = self._resume(ledger, source, engine)
                return self._work(ledger, source, pool, denoiser, key)
            except DpcleanError as error:
                nothing_kept = ledger.get("frozen") is None or ledger.first_pending() == 0
                if nothing_kept and not isinstance(error, (Interrupted, ConflictError)) or isinstance(error, InputError) and ledger.count(DONE) == 0:
                    self.staging.discard()
                raise
            finally:
                ledger.close()

    def _finished(self) -> SanitizeResult | None:
        """The result of a complete OUT; None where there is work to do. Refuses an OUT that is something else."""
        out = self.staging.out
        if not out.exists():
            return None
        if not out.is_dir():
            raise ConflictError(f"{str(out)!r} is a file", "choose another --out")
        manifest = manifests.read(out)
        if manifest is None:
            if any(out.iterdir()):
                raise ConflictError(f"{str(out)!r} is not empty and was not made by dpclean", "choose another --out")
            return None
        if self.options.overwrite:
            return None
        _, parameters = self._denoiser_parameters()
        changed = _changes(manifest.parameters, parameters) + _changes(
            asdict_engine(manifest), self.options.demanded(), only_asked=True
        )
        if changed:
            raise ConflictError(
                f"{str(out)!r} was made with {_tell(changed, 0)}; this command asks for {_tell(changed, 1)}",
                "choose another --out, or --overwrite to make it anew",
            )
        ledger = Ledger(out / manifests.LEDGER_NAME, writable=False)
        try:
            self._check_listing(ledger, self.source(), str(out))
        finally:
            ledger.close()
        if self.options.reveal_key and manifest.noise.key is None:
            self._reveal(manifest)
        return _result(manifest, out, already_complete=True, seconds=0.0)

    def _denoiser_parameters(self) -> tuple[DenoiserFiles, dict[str, Any]]:
        from dpclean.denoise.loading import find_denoiser

        files = find_denoiser(self.options.denoiser)
        return files, {**self.options.parameters(), "denoiser": files.id, "denoiser_digests": files.digests()}

    def _start_again(self, ledger_path: Path, parameters: dict[str, Any]) -> bool:
        """True where --overwrite gives up what an interrupted job left; refuses changed parameters."""
        if self.options.overwrite:
            return True
        ledger = Ledger(ledger_path)
        try:
            begun = ledger.get("parameters")
        finally:
            ledger.close()
        if begun is None:  # killed before the listing was frozen: nothing to go on with
            return True
        changed = _changes(begun, parameters)
        if changed:
            raise ConflictError(
                f"{str(self.staging.out)!r} was begun with {_tell(changed, 0)}; this command asks for {_tell(changed, 1)}",
                "choose another --out, or --overwrite to start again",
            )
        return False

    def _load(self, files: DenoiserFiles) -> Denoiser:
        from dpclean.doctor import check_libraries

        check_libraries()
        from dpclean.denoise.denoiser import Denoiser

        o = self.options
        return Denoiser(
            files, o.sigma, device=o.device, dtype=o.dtype, method=o.method, batch_pixels=_batch_pixels(o.batch_size)
        )

    def _begin(self, ledger_path: Path, source: Source, parameters: dict[str, Any], engine: dict[str, Any]) -> None:
        """Freeze the listing, then draw the key: the noise must not be known before the data are fixed."""
        self.staging.start()
        ledger = Ledger(ledger_path)
        with ledger.transaction():
            listed = ledger.freeze(
                Listed(e.index, os.fsencode(e.name), e.label, os.fsencode(e.target)) for e in self.entries(source)
            )
            ledger.set("frozen", listed)
        seed = self.options.seed
        key = draw_key() if seed is None else key_from_seed(seed, "sanitize")
        write_key(self.staging.key, key)
        with ledger.transaction():
            ledger.set("parameters", parameters)
            ledger.set("engine", engine)
            ledger.set("key_commitment", commitment(key))
            ledger.set("retried", 0)
        ledger.close()

    def _resume(self, ledger: Ledger, source: Source, engine: dict[str, Any]) -> bytes:
        """The job's key, after checking that this process would do what the job began."""
        changed = _changes(ledger.get("engine"), engine)
        if changed:
            raise ConflictError(
                f"{str(self.staging.out)!r} was begun with {_tell(changed, 0)}; here it would go on with {_tell(changed, 1)}",
                "go on where it was begun, or --overwrite to start again",
            )
        self._check_listing(ledger, source, str(self.staging.out))
        key = read_key(self.staging.key)
        if commitment(key) != ledger.get("key_commitment"):
            raise ConflictError(
                f"the key file {str(self.staging.key)!r} is of another job",
                "put the right key back, or start again with --overwrite",
            )
        return key

    def _check_listing(self, ledger: Ledger, source: Source, out: str) -> None:
        """Refuse where RAW's names are not those of the frozen listing any more."""
        now = ((os.fsencode(e.name), e.label) for e in self.entries(source))
        then = ((row.name, row.label) for row in ledger.listing())
        for (new, old) in itertools.zip_longest(now, then):
            if new == old:
                continue
            # in byte order, the smaller of two different names is the one that the other listing lacks
            added = old is None or (new is not None and new[0] < old[0])
            name = os.fsdecode((new if added else old)[0])  # type: ignore[index]
            what = "has been added" if added else "is gone" if new is None or new[0] != old[0] else "has another class"  # type: ignore[index]
            raise ConflictError(
                f"RAW has changed since {out!r} was begun: {name!r} {what}",
                "restore it, choose another --out, or --overwrite to start again",
            )

    # -- the work

    def _work(self, ledger: Ledger, source: Source, pool: WorkerPool, denoiser: Denoiser, key: bytes) -> SanitizeResult:
        total, start = ledger.count(), ledger.first_pending()
        start = total if start is None else start
        kept = (_entry(listed) for listed, _ in ledger.done())
        sink = open_sink(source, self.staging.partial, self.options.read_options(), pool, kept)
        bad_limit = _bad_limit(self.options.max_bad, total)
        retried, finished, committed_at = ledger.get("retried"), start, time.monotonic()
        outcomes: list[Outcome] = []
        with _first_signal() as interrupted:
            samples = source.samples(self.entries(source, start), pool)
            for chunk in _chunks(samples, denoiser.shapes.batch(32, 32)):
                results = {
                    r.index: r
                    for r in denoiser.denoise(
                        ((s.entry.index, s.pixels) for s in chunk if s.pixels is not None), key=key, run=SANITIZE_RUN
                    )
                }
                outcomes.extend(_outcome(s, results.get(s.entry.index), sink) for s in chunk)
                retried += sum(r.retried for r in results.values())
                finished += len(chunk)
                if interrupted.is_set() or time.monotonic() - committed_at > COMMIT_SECONDS or finished == total:
                    self._commit(ledger, sink, outcomes, retried)
                    outcomes, committed_at = [], time.monotonic()
                    bad = ledger.count(QUARANTINED)
                    self._report_progress(start, finished, total, bad)
                    if bad > bad_limit:
                        raise InputError(
                            f"{bad} of {total} inputs cannot be used, more than --max-bad {self.options.max_bad} allows",
                            "look at RAW, or allow more; the same command then goes on",
                        )
                    if interrupted.is_set() and finished < total:
                        raise Interrupted(
                            f"stopped after {finished} of {total} inputs, all of them saved", "the same command goes on"
                        )
        return self._complete(ledger, source, sink, pool, denoiser, key)

    def _commit(self, ledger: Ledger, sink: Sink, outcomes: list[Outcome], retried: int) -> None:
        """Bytes first, then the rows that speak of them."""
        targets = {index: os.fsencode(target) for index, target in sink.sync()}
        with ledger.transaction():
            ledger.record(_at(outcome, targets) for outcome in outcomes)
            ledger.set("retried", retried)

    def _report_progress(self, start: int, finished: int, total: int, bad: int) -> None:
        seconds = time.monotonic() - self.started
        self.progress(Progress(finished, total, bad, seconds, (finished - start) / max(seconds, 1e-9)))

    def _complete(
        self, ledger: Ledger, source: Source, sink: Sink, pool: WorkerPool, denoiser: Denoiser, key: bytes
    ) -> SanitizeResult:
        images = ledger.count(DONE)
        if images == 0:
            raise InputError(
                f"none of the {ledger.count()} files in {str(self.raw)!r} is an image that can be used", "look at RAW"
            )
        sink.finish()
        partial = self.staging.partial
        manifest = self._manifest(ledger, source, denoiser, key)
        prefixes = sorted({o.raw_sha256[:8] for _, o in ledger.done() if o.raw_sha256})
        write_durably(partial / manifests.ANCESTRY_NAME, b"".join(prefixes))
        _write_with_sums(partial, manifest)
        report = self._contact_sheet(ledger, source, pool, denoiser, key, manifest) if self.options.report else []
        ledger.close()
        self.staging.commit()
        seconds = time.monotonic() - self.started
        return _result(manifest, self.staging.out, already_complete=False, seconds=seconds, hidden=source.hidden, report=report)

    def _manifest(self, ledger: Ledger, source: Source, denoiser: Denoiser, key: bytes) -> manifests.Manifest:
        raw_digest, clean_digest = _digests(ledger)
        by_label = ledger.labels_done()
        images = ledger.count(DONE)
        o = self.options
        unsanitized = list(source.unsanitized()) + (["alpha"] if o.alpha_policy == "keep" else [])
        return manifests.Manifest(
            format=manifests.FORMAT,
            tool=f"dpclean {metadata.version('dpclean')}",
            sanitized=o.sigma > 0,
            parameters=ledger.get("parameters"),
            raw=manifests.Raw(os.path.relpath(self.raw, self.staging.out), source.kind, ledger.count(), images, raw_digest),
            noise=manifests.Noise(
                sigma=o.sigma,
                specification=NOISE_SPECIFICATION,
                run=SANITIZE_RUN,
                key_commitment=commitment(key),
                key=key.hex() if o.reveal_key else None,
                seed=o.seed,
            ),
            denoiser=manifests.Denoiser(
                id=denoiser.id,
                digests=ledger.get("parameters")["denoiser_digests"],
                prediction_type=denoiser.prediction_type,
                timestep=denoiser.level.timestep,
                alphas_cumprod=denoiser.level.alphas_cumprod,
                method=denoiser.method,
                device=denoiser.device.type,
                dtype=denoiser.dtype,
                batch_pixels=denoiser.shapes.batch_pixels,
                tile=denoiser.shapes.tile,
                overlap=denoiser.shapes.overlap,
            ),
            classes=list(source.classes),
            images_by_class={name: by_label.get(label, 0) for label, name in enumerate(source.classes)},
            output=manifests.Output(
                kind=source.kind,
                format=o.format if source.kind == "folder" else "safetensors",
                images=images,
                pixel_digest=clean_digest,
                unsanitized=unsanitized,
            ),
            quarantined=ledger.reasons(),
            left_behind=ledger.count(LEFT_BEHIND),
            not_finite_retried=ledger.get("retried"),
            host={**ledger.get("engine")["versions"], "kernel": kernel_name(), "platform": platform.platform()},
        )

    def _reveal(self, manifest: manifests.Manifest) -> None:
        """Put the key into a finished OUT's manifest."""
        key = read_key(self.staging.key)
        if commitment(key) != manifest.noise.key_commitment:
            raise ConflictError(f"the key file {str(self.staging.key)!r} is of another job", "put the right key back")
        noise = manifests.msgspec.structs.replace(manifest.noise, key=key.hex())
        _write_with_sums(self.staging.out, manifests.msgspec.structs.replace(manifest, noise=noise))

    def _contact_sheet(
        self, ledger: Ledger, source: Source, pool: WorkerPool, denoiser: Denoiser, key: bytes, manifest: manifests.Manifest
    ) -> list[str]:
        """Pages beside OUT with a dozen images, spread over the listing, at every stage."""
        import numpy as np

        from dpclean.contact_sheet import SheetRow, write_contact_sheet
        from dpclean.noise import add_noise

        images = manifest.output.images
        wanted = {round(i * (images - 1) / 11) for i in range(12)}
        entries = [_entry(listed) for place, (listed, _) in enumerate(ledger.done()) if place in wanted]
        rows = []
        samples = [s for s in source.samples(entries, pool) if s.pixels is not None]
        clean = {r.index: r for r in denoiser.denoise(((s.entry.index, s.pixels) for s in samples if s.pixels is not None), key=key, run=SANITIZE_RUN)}
        for sample in samples:
            assert sample.pixels is not None
            index = np.array([sample.entry.index], np.int64)
            noised = add_noise(sample.pixels[None], self.options.sigma, key=key, run=SANITIZE_RUN, indices=index)[0]
            rows.append(
                SheetRow(sample.entry.name, sample.pixels, noised.clip(0, 255).astype(np.uint8), clean[sample.entry.index].pixels)
            )
        out = self.staging.out
        facts = {
            "noise": f"sigma {self.options.sigma:g} (standard deviation {255 * self.options.sigma:.1f} grey levels)",
            "denoiser": f"{denoiser.id}, {denoiser.dtype} on {denoiser.device.type}",
            "images": f"{images:,}",
            "left out": f"{sum(manifest.quarantined.values()):,}",
        }
        written = write_contact_sheet(out.parent / f"{out.name}.report", rows, f"{out.name}: what dpclean did", facts)
        return [str(path) for path in written]

    # -- the look ahead

    def plan(self) -> Plan:
        from dpclean.denoise.loading import find_denoiser

        source = self.source()
        listed = sum(1 for _ in self.entries(source))
        with WorkerPool(1, self.options.read_options()) as pool:
            denoiser = self._load(find_denoiser(self.options.denoiser))
            samples = list(source.samples(itertools.islice(self.entries(source), 64), pool))
        usable = [s for s in samples if s.pixels is not None]
        pairs = [(s.entry.index, s.pixels) for s in usable if s.pixels is not None]
        list(denoiser.denoise(pairs, key=bytes(32)))  # the first pass pays for what is set up once
        begun = time.monotonic()
        list(denoiser.denoise(pairs, key=bytes(32)))
        share = listed / max(1, len(samples))
        values = sum(pixels.size for _, pixels in pairs)
        area = sum(pixels.shape[0] * pixels.shape[1] for _, pixels in pairs)
        return Plan(
            out=str(self.staging.out),
            listed=listed,
            classes=list(source.classes),
            kind=source.kind,
            sampled=len(samples),
            unusable_in_sample=len(samples) - len(usable),
            megapixels=round(area * share / 1e6, 3),
            seconds=round((time.monotonic() - begun) * share, 1),
            bytes=int(values * share),
        )


def _check_places(raw: Path, out: Path) -> None:
    if raw == out:
        raise ConflictError(f"OUT is RAW: {str(out)!r}", "choose another --out")
    if raw in out.parents:
        raise ConflictError(f"OUT {str(out)!r} lies inside RAW", "choose an --out outside RAW")
    if out in raw.parents:
        raise ConflictError(f"RAW {str(raw)!r} lies inside OUT", "choose another --out")


def _batch_pixels(batch_size: int | None) -> int | None:
    """A batch size counts images of 32 by 32 pixels."""
    return None if batch_size is None else batch_size * 32 * 32


def _bad_limit(text: str, listed: int) -> float:
    """How many inputs may be left out: a count, or a percentage of the listing."""
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise UsageError(f"max-bad must be a count or a percentage, got {text!r}", "give for example 10 or 5%")
    return value * listed / 100 if text.endswith("%") else value


def _engine(denoiser: Denoiser) -> dict[str, Any]:
    """What decides the bytes beside the options: device kind, shapes, types and library versions."""
    import torch

    shapes = denoiser.shapes
    kind = torch.backends.cpu.get_cpu_capability() if denoiser.device.type == "cpu" else torch.cuda.get_device_name(denoiser.device)
    versions = {name: metadata.version(name) for name in ("dpclean", *LIBRARIES)}
    return {
        "device": denoiser.device.type,
        "device_kind": kind,
        "dtype": denoiser.dtype,
        "batch_pixels": shapes.batch_pixels,
        "tile": shapes.tile,
        "overlap": shapes.overlap,
        "versions": versions,
    }


def asdict_engine(manifest: manifests.Manifest) -> dict[str, Any]:
    """The engine's choices that a command can ask for by name, as the manifest has them."""
    d = manifest.denoiser
    return {"device": d.device, "dtype": d.dtype, "batch_pixels": d.batch_pixels}


Changes = list[tuple[str, Any, Any]]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], *, only_asked: bool = False) -> Changes:
    names = new if only_asked else dict.fromkeys((*old, *new))
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _tell(changed: Changes, side: int) -> str:
    return ", ".join(f"{name.replace('_', '-')} {_short(values[side])}" for name, *values in changed)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {str(v)[:16]}" for k, v in sorted(value.items())) + ")"
    return "none" if value is None or value == [] else str(value)


def _entry(listed: Listed) -> Entry:
    return Entry(listed.position, os.fsdecode(listed.name), listed.label, os.fsdecode(listed.target), None)


def _chunks(samples: Iterable[Sample], batch: int) -> Iterator[list[Sample]]:
    """Runs of samples that are denoised and committed together, whole batches where sizes are equal."""
    most = -(-CHUNK_SAMPLES // batch) * batch
    chunk: list[Sample] = []
    pixels = 0
    for sample in samples:
        chunk.append(sample)
        pixels += 0 if sample.pixels is None else sample.pixels.shape[0] * sample.pixels.shape[1]
        if len(chunk) == most or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _outcome(sample: Sample, result: Denoised | None, sink: Sink) -> Outcome:
    """What became of a sample; a usable one goes to the sink."""
    position = sample.entry.index
    if sample.left_behind:
        return Outcome(position, LEFT_BEHIND)
    if sample.pixels is None:
        return Outcome(position, QUARANTINED, sample.reason)
    assert result is not None
    if not result.finite:
        return Outcome(position, QUARANTINED, Reason.NOT_FINITE)
    sink.put(sample, result.pixels)
    shape = sample.pixels.shape
    return Outcome(
        position, DONE, None, (shape[0], shape[1], shape[2]), pixel_sha256(sample.pixels), pixel_sha256(result.pixels)
    )


def _at(outcome: Outcome, targets: Mapping[int, bytes]) -> Outcome:
    if outcome.position not in targets:
        return outcome
    return Outcome(**{**asdict(outcome), "shape": outcome.shape, "target": targets[outcome.position]})


def _digests(ledger: Ledger) -> tuple[str, str]:
    """Pixel digests of the raw data that were used and of the sanitized data, each in its own order."""
    raw, clean = PixelDigest(), PixelDigest()
    for listed, outcome in ledger.done():
        raw.update(listed.position, os.fsdecode(listed.name), listed.label, outcome.shape, outcome.raw_sha256)
    row, previous = 0, b""
    for index, (listed, outcome) in enumerate(ledger.done(by_target=True)):
        row = row + 1 if listed.target == previous else 0
        previous = listed.target
        name = os.fsdecode(listed.target) + (f"#{row}" if b"#" in listed.name and listed.target.endswith(b".safetensors") else "")
        clean.update(index, name, listed.label, outcome.shape, outcome.clean_sha256)
    return raw.hexdigest(), clean.hexdigest()


def _write_with_sums(folder: Path, manifest: manifests.Manifest) -> None:
    """The manifest, and SHA256SUMS of it and of every data file."""
    write_durably(folder / manifests.NAME, manifests.dump(manifest))
    skipped = {manifests.LEDGER_NAME, manifests.CHECKSUMS_NAME}
    files = sorted(
        os.path.relpath(os.path.join(base, name), folder)
        for base, _, names in os.walk(folder)
        for name in names
        if not (Path(base) == folder and name in skipped)
    )
    with ThreadPoolExecutor(4) as threads:
        sums = threads.map(lambda name: _sha256(folder / name), files, chunksize=64)
        lines = b"".join(map(_sum_line, sums, files))
    write_durably(folder / manifests.CHECKSUMS_NAME, lines)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_line(digest: str, name: str) -> bytes:
    """A line as sha256sum writes it: names with backslash, newline or return are escaped and marked."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return os.fsencode(f"{chr(92) if escaped != name else ''}{digest}  {escaped}\n")


def _result(
    manifest: manifests.Manifest,
    out: Path,
    *,
    already_complete: bool,
    seconds: float,
    hidden: int = 0,
    report: list[str] | None = None,
) -> SanitizeResult:
    empty = [name for name, count in manifest.images_by_class.items() if count == 0]
    warnings = [f"class {name!r} has no images and no folder in OUT" for name in empty]
    if not manifest.sanitized:
        warnings.append("sigma is 0: no noise was added, the data are not sanitized")
    if manifest.output.unsanitized:
        warnings.append(f"copied as they are, unsanitized: {', '.join(manifest.output.unsanitized)}")
    return SanitizeResult(
        out=str(out),
        sigma=manifest.noise.sigma,
        images=manifest.output.images,
        quarantined=manifest.quarantined,
        left_behind=manifest.left_behind,
        hidden=hidden,
        not_finite_retried=manifest.not_finite_retried,
        already_complete=already_complete,
        seconds=round(seconds, 3),
        images_per_second=round(manifest.output.images / seconds, 2) if seconds else 0.0,
        device=manifest.denoiser.device,
        dtype=manifest.denoiser.dtype,
        kernel=manifest.host["kernel"],
        warnings=warnings,
        report=report or [],
    )


@contextmanager
def _first_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield event
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
