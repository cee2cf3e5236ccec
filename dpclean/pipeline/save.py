"""What makes a folder of sanitized data a record: manifest, ancestry, checksums."""

from __future__ import annotations

import errno
import hashlib
import heapq
import itertools
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dpclean import __version__
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry
from dpclean.data.digest import PixelDigest, pixel_sha256
from dpclean.data.names import to_bytes, to_text
from dpclean.data.records import Rows
from dpclean.data.sources import Source
from dpclean.errors import ConflictError, SetupError
from dpclean.jobs.durable import write_durably, writing
from dpclean.jobs.record import Json, Record
from dpclean.kernels import kernel_name
from dpclean.noise.keys import commitment
from dpclean.pipeline.ledger import DONE, LEFT_BEHIND, Digested, File, Ledger

if TYPE_CHECKING:
    from dpclean.denoise.denoiser import Denoiser
    from dpclean.pipeline.options import SanitizeOptions

T = TypeVar("T")

HASHING = 4  # threads
NOISE_SPECIFICATION = 1
SANITIZE_RUN = 0  # of all images but those that were done anew; the ledger has theirs


def write_outputs(
    folder: Path,
    out: Path,
    raw: Path,
    *,
    ledger: Ledger,
    source: Source,
    denoiser: Denoiser,
    options: SanitizeOptions,
    key: bytes,
    inherited: Ancestry,
    record: Record,
    rows: Iterator[Rows] | None = None,
) -> manifests.Manifest:
    """Write manifest, ancestry and checksums into a folder that is to become out; returns the manifest.

    inherited: what RAW and the denoiser were made of. record: what the job was begun with. rows: what lies in folder,
    read back, where the sums of files do not tell whether it is what was committed. Raises ConflictError where not.
    """
    clean = ledger.clean_digests()
    manifest = manifests.Manifest(
        format=manifests.FORMAT,
        tool=f"dpclean {__version__}",
        sanitized=options.sigma > 0,
        parameters=record.parameters,
        raw=manifests.Raw(
            path=os.fsencode(os.path.relpath(raw, out)).decode("utf-8", "backslashreplace"),  # JSON holds text alone
            kind=source.kind,
            listed=ledger.count(),
            images=ledger.count(DONE),
            pixel_digest=_raw_digest(ledger),
            decode_timeout=options.decode_timeout,
            decode_memory=options.decode_memory,
        ),
        noise=manifests.Noise(
            sigma=options.sigma,
            specification=NOISE_SPECIFICATION,
            run=SANITIZE_RUN,
            key_commitment=commitment(key),
            key=key.hex() if options.reveal_key else None,
            seed=options.seed,
            runs=runs if (runs := ledger.images_by_run()).keys() != {SANITIZE_RUN} else None,
        ),
        denoiser=_denoiser(record.parameters["denoiser_digests"], denoiser),
        classes=list(source.classes),
        images_by_class=_images_by_class(ledger, source),
        output=manifests.Output(
            kind=source.kind,
            format=source.output_format,
            images=ledger.count(DONE),
            pixel_digest=_clean_digest(_as_committed(folder, clean, rows) if rows else clean, source.names_rows),
            unsanitized=list(source.unsanitized()) + (["alpha"] if options.alpha_policy == "keep" else []),
        ),
        quarantined=ledger.reasons(),
        left_behind=ledger.count(LEFT_BEHIND),
        not_finite_retried=ledger.known("retried", int),
        host=_host(record.environment),
    )
    ancestry = inherited.dump_with(ledger.raw_prefixes, manifest.raw.pixel_digest)
    write_durably(folder / manifests.ANCESTRY_NAME, ancestry)
    write_with_sums(folder, manifest, ledger)
    _remove_strays(folder, ledger)
    return manifest


def write_with_sums(folder: Path, manifest: manifests.Manifest, ledger: Ledger) -> None:
    """The manifest, and SHA256SUMS of it and of every data file, as `sha256sum -c` reads it."""
    write_durably(folder / manifests.NAME, manifests.dump(manifest))
    own: list[File] = [(name.encode(), None) for name in sorted((manifests.NAME, manifests.ANCESTRY_NAME))]
    files = heapq.merge(ledger.files(), own, key=itemgetter(0))
    with ThreadPoolExecutor(HASHING) as threads:
        sums = _ahead(threads, files, lambda file: (file[0], _sha256(folder, *file)))
        write_durably(folder / manifests.CHECKSUMS_NAME, (_sum_line(name, digest) for name, digest in sums))


def _ahead(threads: Executor, files: Iterable[File], work: Callable[[File], T]) -> Iterator[T]:
    """work of each file, in order, by threads that are a few files ahead."""
    begun: deque[Future[T]] = deque()
    for file in files:
        begun.append(threads.submit(work, file))
        if len(begun) > 8 * HASHING:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _remove_strays(folder: Path, ledger: Ledger) -> None:
    """Unlink what the ledger does not name: what a killed process wrote and had not committed, or others laid there."""
    own = {name.encode() for name in manifests.NAMES}
    if sum(1 for _ in _files(folder)) == len(own) + sum(1 for _ in ledger.files()):
        return  # all that is named is there, or the sums could not have been written
    named = ledger.named_targets()
    with writing(folder):
        for name in list(itertools.filterfalse(lambda name: name in own or named(name), _files(folder))):
            os.unlink(os.path.join(os.fsencode(folder), name))


def _files(folder: Path) -> Iterator[bytes]:
    """Everything below folder that is no folder, as paths relative to it."""
    root, folders = os.fsencode(folder), [b""]
    while folders:
        prefix = folders.pop()
        with writing(folder), os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(prefix + entry.name + b"/")
                else:
                    yield prefix + entry.name


def _host(environment: Json) -> dict[str, str]:
    threads = environment["threads"]  # None on a GPU
    on_cpu = {} if threads is None else {"threads": str(threads)}
    return {**environment["versions"], "kernel": kernel_name(), "platform": platform.platform(), **on_cpu}


def _denoiser(digests: dict[str, str], denoiser: Denoiser) -> manifests.Denoiser:
    return manifests.Denoiser(
        id=denoiser.id,
        digests=digests,
        prediction_type=denoiser.schedule.prediction_type,
        timestep=denoiser.level.timestep,
        alphas_cumprod=denoiser.level.alphas_cumprod,
        method=denoiser.method,
        device=denoiser.device.type,
        dtype=denoiser.dtype,
        batch_pixels=denoiser.shapes.batch_pixels,
        tile=denoiser.shapes.tile,
        overlap=denoiser.shapes.overlap,
    )


def _images_by_class(ledger: Ledger, source: Source) -> dict[str, int]:
    by_label = ledger.labels_done()
    return {name: by_label.get(label, 0) for label, name in enumerate(source.classes)}


def _raw_digest(ledger: Ledger) -> str:
    """Pixel digest of the raw samples that were used, at their places in the frozen listing."""
    digest = PixelDigest()
    digest.update_all(ledger.raw_digests())
    return digest.hexdigest()


def _clean_digest(samples: Iterable[Digested], shards: bool) -> str:
    """Pixel digest of the sanitized samples, in the order in which OUT lists them itself."""
    digest = PixelDigest()
    digest.update_all(enumerate(_rows_named(samples) if shards else samples))
    return digest.hexdigest()


def _rows_named(samples: Iterable[Digested]) -> Iterator[Digested]:
    """The same, each named as a row of its shard."""
    for shard, rows in itertools.groupby(samples, itemgetter(0)):
        for row, sample in enumerate(rows):
            yield (b"%b#%d" % (shard, row), *sample[1:])


def _as_committed(folder: Path, committed: Iterator[Digested], read: Iterable[Rows]) -> Iterator[Digested]:
    """The same; every row that was read back must be the one that was committed. Raises ConflictError."""
    for shard, first, labels, pixels in read:
        expected = list(itertools.islice(committed, len(labels)))
        name, digests = to_bytes(shard), [pixel_sha256(image) for image in pixels]
        for place, (row, label, sha256) in enumerate(itertools.zip_longest(expected, labels, digests), first):
            if row is None or (row[0], row[1], row[-1]) != (name, label, sha256):
                raise _not_as_committed(f"{shard}#{place} in {folder}")
        yield from expected
    for row in committed:
        raise _not_as_committed(f"{to_text(row[0])} in {folder}")


def _not_as_committed(what: str) -> ConflictError:
    return ConflictError(f"{what} is not what was written and committed", "start again with --overwrite")


def _sha256(folder: Path, name: bytes, expected: bytes | None) -> bytes:
    path = os.path.join(os.fsencode(folder), name)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError as error:
        raise ConflictError(
            f"{os.fsdecode(path)!r} was written and committed, and is gone", "start again with --overwrite"
        ) from error
    except OSError as error:
        what = os.strerror(error.errno or errno.EIO).lower()
        raise SetupError(
            f"{os.fsdecode(path)!r} cannot be read: {what}", "mend that; the same command goes on"
        ) from error
    if expected not in (None, digest):
        raise _not_as_committed(repr(os.fsdecode(path)))
    return digest


def _sum_line(name: bytes, digest: bytes) -> bytes:
    """A line as sha256sum writes it: a name with backslash, newline or return is escaped, and the line marked."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return b"%s%s  %s\n" % (mark, digest.hex().encode(), escaped)
