"""A folder of images as a source: splits, classes, names; the images themselves come from the workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.formats import OUTPUT_ENDINGS, READ_ENDINGS, split_ending
from dpclean.data.names import is_text, to_bytes, to_text
from dpclean.data.records import DataOptions, Entry, Kind, Sample
from dpclean.data.safe_open import check_there, identity_of_folder
from dpclean.data.sinks.image_folder import FolderSink
from dpclean.data.sources.listing import Listing, is_folder
from dpclean.data.splits import split_names
from dpclean.errors import InputError, Reason


class FolderSource:
    """Image files below root, at any depth. Where top folders are splits, the class is the folder below them."""

    kind: Kind = "folder"
    names_rows = False

    def __init__(self, root: Path, options: DataOptions, hidden: int) -> None:
        self.root = root
        self.hidden = hidden
        self._options = options
        self.output_format = options.output_format
        self._identity = identity_of_folder(os.fsencode(root))
        tops = self._folders()
        splits = split_names(tops)
        self.has_splits = bool(splits)
        self._beside = tuple(top for top in tops if top not in splits) if splits else ()
        inner = {name for split in splits for name in self._folders(split)}
        self.classes = tuple(sorted(inner, key=to_bytes) if splits else tops)
        self._check_classes()
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def entries(self) -> Iterator[Entry]:
        """The frozen listing; hidden entries have no index."""
        listing = Listing(os.fsencode(self.root), self._options.follow_links, output_endings(self._options))
        for index, found in enumerate(listing):
            target = found.stem + self._ending(found.name)
            yield Entry(index, found.name, self._label(found.name), target, found.reason)

    def samples(self, entries: Iterable[Entry], pool: WorkerPool) -> Iterator[Sample]:
        """Decoded by the workers, in the order asked for. Raises InputError when the root itself is gone."""
        for sample in pool.decode(self.root, entries, self._identity):
            if sample.reason in (Reason.VANISHED, Reason.UNREADABLE):
                check_there(self.root, self._identity)
            yield sample

    def make_sink(self, root: Path, pool: WorkerPool, kept: Iterable[Entry] = ()) -> FolderSink:
        """One image file a sample; a file that is there already is written anew."""
        return FolderSink(root, self._options, pool)

    def unsanitized(self) -> tuple[str, ...]:
        """Folders carry no tensors."""
        return ()

    def remarks(self) -> list[str]:
        """The folders beside the splits: their images have no class and are of no split."""
        named = ", ".join(map(repr, self._beside[:5])) + (
            f" and {len(self._beside) - 5} more" if self._beside[5:] else ""
        )
        return [f"beside the splits, and so of no split and no class: {named}"] if self._beside else []

    def not_carried(self) -> list[str]:
        """Folders carry no tensors."""
        return []

    def _label(self, name: str) -> int:
        parts = name.split("/", 2)
        place = 1 if self.has_splits else 0
        if len(parts) <= place + 1 or parts[0] in self._beside:
            return -1
        try:
            return self._labels[parts[place]]
        except KeyError as error:
            message = f"{self.root} got the folder {parts[place]!r} while it was listed"
            raise InputError(message, "wait until nobody writes to it, then give the same command again") from error

    def _check_classes(self) -> None:
        for name in self.classes:
            if not is_text(name):
                message = f"{str(self.root)!r} has the class {name!r}, whose name is no UTF-8"
                raise InputError(message, "rename that folder: manifests and models hold names of classes as text")

    def _folders(self, below: str = "") -> list[str]:
        """Names of the visible folders in a folder below root in byte order; none where it cannot be listed."""
        root, follow_links = os.fsencode(self.root), self._options.follow_links
        path = os.path.join(root, to_bytes(below))
        try:
            above = (self._identity, identity_of_folder(path))
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries if is_folder(entry, follow_links, above)]
        except OSError:
            return []
        return [to_text(name) for name in sorted(names) if not name.startswith(b".")]

    def _ending(self, name: str) -> str:
        """What the listing can tell of the output's ending; with "same" the content may make it another."""
        if self._options.output_format != "same":
            return OUTPUT_ENDINGS[self._options.output_format]
        return OUTPUT_ENDINGS.get(READ_ENDINGS.get(split_ending(name)[1].lower(), "png"), ".png")


def output_endings(options: DataOptions) -> tuple[str, ...]:
    """The endings an output may get."""
    if options.output_format == "same":
        return tuple(OUTPUT_ENDINGS.values())
    return (OUTPUT_ENDINGS[options.output_format],)
