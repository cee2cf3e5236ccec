"""What an output was made of: the raw images that went in, as far as they are known, and what is not known.

Sanitized data, denoisers, models and kept models carry it as `dpclean.ancestry`; `certify` refuses what shares an
image with the data to be certified. The form of the file: docs/formats.md.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import itemgetter, or_
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dpclean.data.manifest import ANCESTRY_NAME
from dpclean.data.manifest import NAME as MANIFEST_NAME
from dpclean.errors import InputError, printable
from dpclean.small_files import LARGE_LIMIT, read_small_file
from dpclean.versioned import check_format

FORMAT = 1
MAGIC = b"dpclean ancestry\n"
ENTRY = np.dtype(">u8")  # the first 8 bytes of the SHA-256 of an image's pixels
MOST_GAPS, LONGEST_GAP = 32, 300


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    images: int
    raw_pixel_digests: list[str]
    gaps: list[str]


@dataclass(frozen=True, eq=False)
class Ancestry:
    """The known part of what went in, and why it is not all of it. `|` unites what several things were made of.

    gaps: clauses without a full stop, for "it is incomplete, because ..."; empty where everything is known.
    """

    images: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # [N], sorted, each once
    raw_pixel_digests: frozenset[str] = frozenset()  # of data sets, where they are known beside their images
    gaps: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pixel_hashes: Iterable[bytes], *raw_pixel_digests: str) -> Ancestry:
        """That of the images themselves. pixel_hashes: SHA-256 of each, or at least the first 8 bytes."""
        entries = np.fromiter((int.from_bytes(found[: ENTRY.itemsize], "big") for found in pixel_hashes), np.uint64)
        return cls(np.unique(entries), frozenset(raw_pixel_digests))

    @classmethod
    def unknown(cls, gap: str) -> Ancestry:
        """That of something of which nothing is known."""
        return cls(gaps=frozenset([printable(gap)[:LONGEST_GAP]]))

    def __or__(self, other: Ancestry) -> Ancestry:
        return Ancestry(
            np.union1d(self.images, other.images),
            self.raw_pixel_digests | other.raw_pixel_digests,
            self.gaps | other.gaps,
        )

    def __contains__(self, pixel_hash: bytes) -> bool:
        entry = np.frombuffer(pixel_hash[: ENTRY.itemsize], ENTRY)[0]
        place = int(np.searchsorted(self.images, entry))
        return place < len(self.images) and bool(self.images[place] == entry)

    @property
    def complete(self) -> bool:
        """Whether all that went in is known."""
        return not self.gaps

    def because(self) -> str:
        """Why it is not complete, for a sentence."""
        return "; ".join(sorted(self.gaps))

    def shared_images(self, other: Ancestry) -> int:
        """How many images both were made of."""
        return len(np.intersect1d(self.images, other.images, assume_unique=True))

    def dump(self) -> bytes:
        """The bytes of a file."""
        return b"".join(_file(self, len(self.images), [self.images.astype(ENTRY).tobytes()]))

    def dump_with(self, prefixes: Callable[[], Iterable[bytes]], raw_pixel_digest: str) -> Iterator[bytes]:
        """The bytes of a file that has a data set beside this, whose images are never in memory together.

        prefixes: called twice; the first 8 bytes of the SHA-256 of each image's pixels, sorted.
        """

        def entries() -> Iterator[bytes]:
            own = (int(entry).to_bytes(ENTRY.itemsize, "big") for entry in self.images)
            both = heapq.merge(prefixes(), own) if len(self.images) else prefixes()  # a merge costs even if of nothing
            return map(itemgetter(0), itertools.groupby(both))

        head = Ancestry(raw_pixel_digests=self.raw_pixel_digests | {raw_pixel_digest}, gaps=self.gaps)
        return _file(head, sum(map(len, _blocks(entries()))) // ENTRY.itemsize, _blocks(entries()))


def _blocks(entries: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    while block := b"".join(itertools.islice(entries, 256)):
        yield block


def _file(head: Ancestry, images: int, entries: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file: what is said beside the images, and their entries."""
    header = _Header(FORMAT, images, sorted(head.raw_pixel_digests), sorted(head.gaps)[:MOST_GAPS])
    checksum = hashlib.sha256()
    for piece in itertools.chain([MAGIC + msgspec.json.encode(header) + b"\n"], entries):
        checksum.update(piece)
        yield piece
    yield checksum.digest()


def united(ancestries: Iterable[Ancestry]) -> Ancestry:
    """What all of them were made of."""
    return reduce(or_, ancestries, Ancestry())


def read_ancestry(path: Path) -> Ancestry:
    """What a file says. Raises InputError where it is missing or damaged, ConflictError for a newer format."""
    try:
        data = read_small_file(path, LARGE_LIMIT)
    except FileNotFoundError as error:
        raise InputError(f"the ancestry {str(path)!r} is missing", "restore it, or make its folder anew") from error
    except OSError as error:
        raise InputError(f"the ancestry {str(path)!r} cannot be read: {error.strerror}", "restore it") from error
    body, checksum = data[: -hashlib.sha256().digest_size], data[-hashlib.sha256().digest_size :]
    if not body.startswith(MAGIC) or hashlib.sha256(body).digest() != checksum:
        raise _damaged(path)
    told, _, entries = body[len(MAGIC) :].partition(b"\n")
    try:
        fields = msgspec.json.decode(told)
        check_format(path, fields, FORMAT)
        header = msgspec.convert(fields, _Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(path) from error
    images = np.frombuffer(entries, ENTRY).astype(np.uint64) if len(entries) == header.images * ENTRY.itemsize else None
    if images is None or not bool((images[1:] > images[:-1]).all()):
        raise _damaged(path)
    gaps = frozenset(printable(gap)[:LONGEST_GAP] for gap in header.gaps[:MOST_GAPS])
    return Ancestry(images, frozenset(header.raw_pixel_digests), gaps)


def _damaged(path: Path) -> InputError:
    return InputError(f"the ancestry {str(path)!r} is damaged", "restore it, or make its folder anew")


def ancestry_in(folder: Path, gap: str) -> Ancestry:
    """What a folder that may come from elsewhere says of itself; the gap where it says nothing. Raises InputError."""
    path = folder / ANCESTRY_NAME
    return read_ancestry(path) if path.exists() or path.is_symlink() else Ancestry.unknown(gap)


def ancestry_of_data(path: Path) -> Ancestry:
    """What images were made of, beside themselves: nothing, or what `sanitize` says in their folder or above it.

    path: their folder, or one shard. Raises InputError where a manifest is there and its ancestry is missing.
    """
    path = path.resolve()
    for folder in (path, *path.parents):
        if (folder / MANIFEST_NAME).is_file():
            try:
                return read_ancestry(folder / ANCESTRY_NAME)
            except InputError as error:
                by_hand = f"{error.remedy}; in raw data {MANIFEST_NAME} is not of your making: remove it there"
                raise InputError(error.message, by_hand) from error
    return Ancestry()
