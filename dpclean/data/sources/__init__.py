"""RAW as a frozen listing and a stream of samples, whichever of the two kinds it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.formats import claims_image
from dpclean.data.records import Entry, Kind, ReadOptions, Sample
from dpclean.data.sinks import Sink
from dpclean.data.sources.image_folder import FolderSource
from dpclean.data.sources.listing import Listing
from dpclean.data.sources.safetensors_shards import ShardSource
from dpclean.errors import InputError

__all__ = ["Entry", "ReadOptions", "Sample", "Source", "open_source"]

SHARD_ENDING = ".safetensors"


class Source(Protocol):
    """A data set that nobody trusts, in one fixed order."""

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


def open_source(raw: Path, options: ReadOptions) -> Source:
    """RAW as a source: a folder of images, a folder of shards, or one shard.

    Raises InputError when RAW is missing, empty, of another kind, or holds images and shards together.
    """
    try:
        root = raw.resolve(strict=True)
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{raw} cannot be read: {_strerror(error)}", "give a folder of images or of shards") from error
    if not is_folder:
        if root.name.lower().endswith(SHARD_ENDING):
            return ShardSource(root.parent, (root.name,), options, hidden=0)
        raise InputError(f"{raw} is neither a folder nor a .safetensors shard", "give a folder of images or of shards")
    return _open_folder(root, raw, options)


def _open_folder(root: Path, raw: Path, options: ReadOptions) -> Source:
    listing = Listing(os.fsencode(root), options.follow_links)
    shards: list[str] = []
    image = deep = None
    empty = True
    try:
        for found in listing:
            empty = False
            if found.name.lower().endswith(SHARD_ENDING):
                shards.append(found.name)
                deep = deep or ("/" in found.name and found.name)
            elif image is None and claims_image(found.name):
                image = found.name
    except OSError as error:
        raise InputError(f"{raw} cannot be listed: {_strerror(error)}", "make it readable, or give another") from error
    if shards and image:
        message = f"{raw} holds both images ({image!r}) and shards ({shards[0]!r})"
        raise InputError(message, "move one kind to a folder of its own")
    if deep:
        raise InputError(f"{raw} has a shard in a folder below it ({deep!r})", "give the folder that holds the shards")
    if shards:
        return ShardSource(root, tuple(shards), options, hidden=listing.hidden)
    if empty:
        raise InputError(f"{raw} holds no files", "give a folder of images or of shards")
    return FolderSource(root, options, hidden=listing.hidden)


def _strerror(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
