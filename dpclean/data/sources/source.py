"""What a source is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.records import Entry, Kind, Sample
from dpclean.data.sinks.sink import Sink


class Source(Protocol):
    """A data set that nobody trusts, in one fixed order. One that is opened raises InputError where it cannot be."""

    @property
    def kind(self) -> Kind: ...

    @property
    def names_rows(self) -> bool:
        """Its samples are rows of files, counted by their places; else each is a file of its own."""
        ...

    @property
    def output_format(self) -> str:
        """What its sink writes, as manifests call it."""
        ...

    @property
    def root(self) -> Path: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def has_splits(self) -> bool:
        """Top folders are splits (data/splits.py)."""
        ...

    @property
    def hidden(self) -> int:
        """Entries skipped because their name begins with a dot (a hidden folder counts once)."""
        ...

    def entries(self) -> Iterator[Entry]:
        """The listing in byte order of the relative name; may be asked for again."""
        ...

    def samples(self, entries: Iterable[Entry], pool: WorkerPool) -> Iterator[Sample]:
        """The entries' samples in the same order, read ahead within a bounded window."""
        ...

    def make_sink(self, root: Path, pool: WorkerPool, kept: Iterable[Entry] = ()) -> Sink:
        """A sink below root, a folder that exists. kept: what an interrupted process committed, in index order.

        Whatever is newer is written over.
        """
        ...

    def unsanitized(self) -> tuple[str, ...]:
        """Names of the tensors that will be copied as they are."""
        ...

    def remarks(self) -> list[str]:
        """What a user should know about how it was read, one sentence each."""
        ...

    def not_carried(self) -> list[str]:
        """The tensors that are left behind, in a sentence; nothing where there are none."""
        ...
