"""RAW's listing: as it is now, as it was frozen in the ledger, and what has changed in between."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.digest import pixel_sha256
from dpclean.data.names import to_bytes, to_text
from dpclean.data.records import Entry, Sample
from dpclean.data.selection import check_sample, selected
from dpclean.data.sources import open_source
from dpclean.errors import ConflictError, Reason, UsageError
from dpclean.pipeline.ledger import LEFT_BEHIND, PENDING, QUARANTINED, Ledger, Listed, Stamp
from dpclean.pipeline.options import SanitizeOptions


class Listing:
    """What RAW lists now. Raises InputError, and UsageError for options that do not go with its kind."""

    def __init__(self, raw: Path, options: SanitizeOptions) -> None:
        self.options = options
        self.source = open_source(raw, options.data_options())
        check_sample(self.source, options.sample)
        if self.source.names_rows and options.redoes:
            raise UsageError(
                "retry-bad and update are for folders of images: of shards every file would be written anew",
                "leave them out, or choose another --out",
            )

    def entries(self) -> Iterator[Entry]:
        """All that is to be sanitized; once the job has begun, the ledger's listing alone counts."""
        return selected(self.source, self.options.limit, self.options.sample)

    def rows(self) -> Iterator[Listed]:
        """The same as rows of a ledger, with size and time of the last change of each entry's file."""
        last: str | None = None
        stamp: Stamp = (None, None)
        for e in self.entries():
            name = e.target if self.source.names_rows else e.name
            if name != last:
                last, stamp = name, _stamp(self.source.root, name)
            yield Listed(e.index, to_bytes(e.name), e.label, to_bytes(e.target), e.reason, stamp)

    def compare(self, ledger: Ledger, out: Path, positions: Collection[int] = ()) -> tuple[list[Listed], list[Listed]]:
        """The rows at these positions, and of the others those with other content than the ledger's, as they are now.

        A file is read again where its size or time is another, or where digests are asked for; what counts is what is
        in it. Raises ConflictError for other names and classes than those that OUT was begun with.
        """
        asked: list[Listed] = []
        suspects: list[Listed] = []
        for new, old in itertools.zip_longest(self.rows(), ledger.listing()):
            if new is None or old is None or (new.name, new.label) != (old.name, old.label):
                raise other_raw(out, _what_changed(new, old, self.options.sample))
            if old.position in positions:
                asked.append(new)
            elif new.stamp != old.stamp or self.options.check_raw:
                suspects.append(new)
        if not suspects:
            return asked, []
        with WorkerPool(self.options.workers or len(os.sched_getaffinity(0)), self.options.data_options()) as pool:
            samples = self.source.samples(map(entry_of, suspects), pool)
            changed = {s.entry.index for s in samples if not _is_as_seen(s, *ledger.seen(s.entry.index))}
        return asked, [row for row in suspects if row.position in changed]


def entry_of(row: Listed) -> Entry:
    """The entry of a source that a row stands for."""
    reason = None if row.reason is None else Reason(row.reason)
    return Entry(row.position, to_text(row.name), row.label, to_text(row.target), reason)


def other_content(out: Path, changed: Sequence[Listed], remedy: str = "") -> ConflictError:
    """The refusal of inputs with other content than OUT was begun with."""
    first = ", ".join(repr(to_text(row.name)) for row in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return other_raw(out, f"other content in {first}{more}", remedy)


def other_raw(out: Path, what: str, remedy: str = "") -> ConflictError:
    """The refusal of a RAW that is another than OUT was begun with."""
    return ConflictError(
        f"RAW has changed since {str(out)!r} was begun: {what}",
        f"restore it, choose another --out, {remedy}or --overwrite to start again",
    )


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


def _what_changed(new: Listed | None, old: Listed | None, sample: int | None) -> str:
    """In words, where two listings in byte order first differ."""
    if sample is not None:  # what is missing from the sample need not be missing from RAW
        return f"it has other files or classes, of which --sample {sample} would take others"
    if old is None or (new is not None and new.name < old.name):
        assert new is not None
        return f"{to_text(new.name)!r} has been added"
    if new is None or new.name != old.name:
        return f"{to_text(old.name)!r} is gone"
    return f"{to_text(new.name)!r} has another class"
