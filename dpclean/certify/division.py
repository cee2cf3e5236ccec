"""The training set divided for runs that take one part each: which images are in it, and in which order.

The part of an image, and its place in there among those that stay, depend on that image alone: whoever puts one in or
takes one away touches one part. Rows of features are divided like images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpclean.certificate.partitions import BY_CONTENT, BY_NAME, part_of
from dpclean.data.dataset import Images
from dpclean.data.digest import content_sha256
from dpclean.data.features import Features
from dpclean.data.names import to_bytes
from dpclean.errors import UsageError


@dataclass(frozen=True)
class Division:
    """order: int64 [N], the places of all images, part by part and within one by word; sizes: int64 [K]."""

    order: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def part(self, number: int) -> NDArray[np.int64]:
        """The places of the images of part 0, 1, ... in their order."""
        begin = int(self.sizes[:number].sum())
        return self.order[begin : begin + int(self.sizes[number])]


def divided_by(train: Images | Features, by: str | None) -> str:
    """What divides these images, of WORDS: by default the names of files, else the content.

    Raises UsageError where numbers of rows are the names.
    """
    if by == BY_NAME and _are_numbered(train):
        raise UsageError(
            "these have no names but numbers of rows, and one row put in at the top would rename all others",
            "leave --partition-by out: they are then divided by content",
        )
    return by or (BY_CONTENT if isinstance(train, Features) or _are_numbered(train) else BY_NAME)


def _are_numbered(train: Images | Features) -> bool:
    """Whether names, be it a single one, are numbers of rows, and so say where an image is among others."""
    if isinstance(train, Features):  # rows made of shards have the names that these have there
        of_shards = any(name.rpartition("#")[2].isdecimal() and "#" in name for name in train.names)
        return not train.named or of_shards or train.names == [str(row) for row in train.indices.tolist()]
    return train.kind == "shards"


def divide(train: Images | Features, parts: int, by: str | None) -> Division:
    """The images in so many parts. Raises what divided_by does."""
    if divided_by(train, by) == BY_NAME:
        in_split = isinstance(train, Images) and train.has_splits
        words = [word_of_name(name, in_split) if isinstance(train, Images) else to_bytes(name) for name in train.names]
    else:
        words = train.hashes if isinstance(train, Features) else [content_sha256(pixels) for pixels in train.pixels]
    return divided(words, parts)


def divided(words: Sequence[bytes], parts: int) -> Division:
    """The division by words; equal ones stay in the order of the listing, which no image alters for two others."""
    of = [part_of(word, parts) for word in words]
    order = sorted(range(len(words)), key=lambda place: (of[place], words[place], place))
    return Division(np.array(order, np.int64), np.bincount(of, minlength=parts).astype(np.int64))


def word_of_name(name: str, in_split: bool) -> bytes:
    """The bytes of the path below the class folder: those of the class and the split say nothing of an image."""
    return to_bytes(name.split("/", 2 if in_split else 1)[-1])
