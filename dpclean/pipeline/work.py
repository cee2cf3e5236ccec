"""Samples in, sanitized samples out, committed in chunks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpclean.data.digest import pixel_sha256
from dpclean.data.names import to_bytes
from dpclean.data.records import Sample
from dpclean.data.sinks.sink import Sink
from dpclean.errors import InputError, InternalError, Interrupted, Reason, told
from dpclean.pipeline.ledger import DONE, LEFT_BEHIND, PENDING, QUARANTINED, Ledger, Outcome
from dpclean.pipeline.options import SanitizeOptions
from dpclean.pipeline.save import SANITIZE_RUN
from dpclean.progress import Pace, Progress

if TYPE_CHECKING:
    from dpclean.denoise.denoiser import Denoised, Denoiser

# A chunk is what is denoised together. Its bounds depend on the listing and on the sizes of images only, so that a
# resumed job forms the same batches as an unbroken one.
CHUNK_SAMPLES = 512
CHUNK_PIXELS = 1 << 24
COMMIT_SECONDS = 2.0

T = TypeVar("T")
Pair = tuple[int, NDArray[np.uint8]]  # index of the noise, pixels [H, W, C]


def work_off(
    samples: Iterable[Sample],
    denoiser: Denoiser,
    sink: Sink,
    ledger: Ledger,
    options: SanitizeOptions,
    key: bytes,
    stop: threading.Event,
    progress: Callable[[Progress], None],
) -> None:
    """Sanitize the samples that are still pending, in the order of the listing.

    Raises Interrupted when stop is set, at the end of a batch, and InputError when too many inputs were bad; either way
    what is finished is committed.
    """
    total = ledger.count()
    finished = total - ledger.count(PENDING)
    runs = ledger.runs()
    retried, quarantined = ledger.known("retried", int), ledger.count(QUARANTINED)
    no_image = ledger.count(LEFT_BEHIND)
    pace, committed = Pace(finished), time.monotonic()
    outcomes: list[Outcome] = []

    def tell(done: float = 0.0, pixels: int = 0, images: int = 0) -> None:
        so_far = finished + images * done / max(pixels, 1)
        current = f", {done / 1e6:.3g} of {pixels / 1e6:.3g} megapixels under way" if done else ""
        detail = f"{pace.rate(so_far):.3g} images/s, {quarantined} left out{current}"
        progress(Progress(finished, total, "images", pace.seconds_left(so_far, total), detail))

    def commit() -> None:
        nonlocal quarantined, no_image, outcomes, committed
        _commit(ledger, sink, outcomes, retried)
        quarantined += sum(outcome.status == QUARANTINED for outcome in outcomes)
        no_image += sum(outcome.status == LEFT_BEHIND for outcome in outcomes)
        outcomes, committed = [], time.monotonic()

    formed = chunks(samples, denoiser.shapes.batch(32, 32))
    begun = ((chunk, _begun(chunk, denoiser, key, runs, stop, tell)) for chunk in formed)
    for chunk, denoised in one_ahead(begun) if denoiser.ahead else begun:
        try:
            results = {result.index: result for result in denoised}
        except _Stopped as error:
            commit()
            raise _interrupted(finished, total) from error
        outcomes.extend(_outcomes(chunk, results, sink))
        retried += sum(result.retried for result in results.values())
        finished += len(chunk)
        if finished < total and not stop.is_set() and time.monotonic() - committed < COMMIT_SECONDS:
            continue
        commit()
        tell()
        if quarantined > options.bad_limit(total - no_image):
            raise too_many_bad(ledger.reasons(), total - no_image, options.max_bad)
        if stop.is_set() and finished < total:
            raise _interrupted(finished, total)


class _Stopped(Exception):
    """A signal came while a chunk was denoised; what of it is done is dropped, so that it is formed again alike."""


def _interrupted(finished: int, total: int) -> Interrupted:
    return Interrupted(f"stopped after {finished} of {total} inputs, all of them saved", "the same command goes on")


def too_many_bad(reasons: Mapping[str, int], images: int, allowed: str) -> InputError:
    """The refusal of a data set of which more inputs than allowed are bad, with the reasons why."""
    return InputError(
        f"{sum(reasons.values())} of {images} inputs cannot be used ({told(reasons)}),"
        f" more than --max-bad {allowed} allows",
        "'dpclean quarantine OUT' lists them; with a larger --max-bad the same command goes on",
    )


def chunks(samples: Iterable[Sample], batch: int) -> Iterator[list[Sample]]:
    """Runs of samples that are denoised together: whole batches where sizes are equal."""
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


def one_ahead(begun: Iterator[T]) -> Iterator[T]:
    """The same, each handed out when the next one has been begun: a GPU computes that while the host is at this one."""
    held = list(itertools.islice(begun, 1))
    for following in begun:
        yield held.pop()
        held.append(following)
    yield from held


def _begun(
    chunk: list[Sample],
    denoiser: Denoiser,
    key: bytes,
    runs: Mapping[int, int],
    stop: threading.Event,
    tell: Callable[[float, int, int], None],
) -> Iterator[Denoised]:
    """The chunk's results, of which a GPU has begun the first; taking them raises _Stopped at the end of a batch."""
    pairs = [(sample.entry.index, sample.pixels) for sample in chunk if sample.pixels is not None]
    pixels, done = sum(image.shape[0] * image.shape[1] for _, image in pairs), 0.0

    def on_batch(count: float) -> None:
        nonlocal done
        done += count
        if stop.is_set() and done < pixels - 0.5:
            raise _Stopped
        tell(done, pixels, len(chunk))

    of_runs = [denoiser.denoise(of_run, key=key, run=run, on_batch=on_batch) for run, of_run in by_run(pairs, runs)]
    return itertools.chain.from_iterable(of_runs)


def by_run(pairs: Sequence[Pair], runs: Mapping[int, int]) -> Iterator[tuple[int, list[Pair]]]:
    """(index, pixels) by the run of their noise, which is denoised together."""
    if not runs:
        yield SANITIZE_RUN, list(pairs)
        return
    for run in sorted({runs.get(index, SANITIZE_RUN) for index, _ in pairs}):
        yield run, [pair for pair in pairs if runs.get(pair[0], SANITIZE_RUN) == run]


def _outcomes(chunk: Sequence[Sample], results: Mapping[int, Denoised], sink: Sink) -> Iterator[Outcome]:
    """What became of the samples of a chunk; the usable ones go to the sink."""
    for sample in chunk:
        position, name = sample.entry.index, to_bytes(sample.entry.name)
        if sample.left_behind:
            yield Outcome(position, name, LEFT_BEHIND)
        elif sample.pixels is None:
            yield Outcome(position, name, QUARANTINED, sample.reason)
        else:
            raw, result, raw_sha256 = sample.pixels, _result(sample, results), pixel_sha256(sample.pixels)
            if result.finite:
                sink.put(sample, result.pixels)
                height, width, channels = raw.shape
                shape, clean_sha256 = (height, width, channels), pixel_sha256(result.pixels)
                yield Outcome(position, name, DONE, None, shape, raw_sha256, clean_sha256)
            else:
                yield Outcome(position, name, QUARANTINED, Reason.NOT_FINITE, raw_sha256=raw_sha256)


def _result(sample: Sample, results: Mapping[int, Denoised]) -> Denoised:
    """That of a sample that has pixels."""
    result = results.get(sample.entry.index)
    if result is None or sample.pixels is None or result.pixels.shape != sample.pixels.shape:
        raise InternalError(f"{sample.entry.name!r} went to the denoiser and did not come back", "please report it")
    return result


def _commit(ledger: Ledger, sink: Sink, outcomes: list[Outcome], retried: int) -> None:
    """Bytes first, then the rows that speak of them."""
    files = {written.position: (to_bytes(written.target), written.sha256) for written in sink.sync()}
    with ledger.transaction():
        ledger.record(outcomes, files)
        ledger.set("retried", retried)
