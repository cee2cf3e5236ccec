"""A folder of images as a source: splits, classes, names; the images themselves come from the workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from dpclean.data.formats import OUTPUT_ENDINGS, READ_ENDINGS, split_ending
from dpclean.data.listing import Listing
from dpclean.data.records import Entry, ReadOptions, Sample
from dpclean.data.workers import WorkerPool
from dpclean.errors import InputError

SPLITS = frozenset(("train", "val", "valid", "validation", "test"))


class FolderSource:
    """Image files below root, at any depth. If every top folder is a split, the class is the folder below it."""

    kind: Literal["folder"] = "folder"

    def __init__(self, root: Path, options: ReadOptions, hidden: int) -> None:
        self.root = root
        self.hidden = hidden
        self._options = options
        tops = _folders(os.fsencode(root))
        self.has_splits = bool(tops) and SPLITS.issuperset(tops)
        if self.has_splits:
            inner = {name for top in tops for name in _folders(os.path.join(os.fsencode(root), os.fsencode(top)))}
            tops = sorted(inner, key=os.fsencode)
        self.classes = tuple(tops)
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def entries(self) -> Iterator[Entry]:
        """The frozen listing; hidden entries have no index."""
        listing = Listing(os.fsencode(self.root), self._options.follow_links, output_endings(self._options))
        for index, found in enumerate(listing):
            target = found.stem + self._ending(found.name)
            yield Entry(index, found.name, self._label(found.name), target, found.reason)

    def samples(self, entries: Iterable[Entry], pool: WorkerPool) -> Iterator[Sample]:
        """Decoded by the workers, in the order asked for."""
        return pool.decode(self.root, entries)

    def unsanitized(self) -> tuple[str, ...]:
        """Folders carry no tensors."""
        return ()

    def remarks(self) -> list[str]:
        """Nothing: what is wrong with a file, its reason says."""
        return []

    def _label(self, name: str) -> int:
        parts = name.split("/", 2)
        place = 1 if self.has_splits else 0
        if len(parts) <= place + 1:
            return -1
        try:
            return self._labels[parts[place]]
        except KeyError as error:
            message = f"{self.root} got the folder {parts[place]!r} while it was listed"
            raise InputError(message, "wait until nobody writes to it, then give the same command again") from error

    def _ending(self, name: str) -> str:
        """What the listing can tell of the output's ending; with "same" the content may make it another."""
        if self._options.output_format != "same":
            return OUTPUT_ENDINGS[self._options.output_format]
        return OUTPUT_ENDINGS.get(READ_ENDINGS.get(split_ending(name)[1].lower(), "png"), ".png")


def output_endings(options: ReadOptions) -> tuple[str, ...]:
    """The endings an output may get."""
    if options.output_format == "same":
        return tuple(OUTPUT_ENDINGS.values())
    return (OUTPUT_ENDINGS[options.output_format],)


def _folders(path: bytes) -> list[str]:
    """Names of the visible folders in path in byte order; none where it cannot be listed."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [name.decode("utf-8", "surrogateescape") for name in sorted(names) if not name.startswith(b".")]
