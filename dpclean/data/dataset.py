"""A folder of images or shards as one labelled set in memory: splits, classes by name, a fixed holdout."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dpclean.data.ancestry import Ancestry
from dpclean.data.decoding.pool import WorkerPool
from dpclean.data.digest import PixelDigest, pixel_sha256
from dpclean.data.records import DataOptions, Kind
from dpclean.data.selection import selected
from dpclean.data.sources import open_source
from dpclean.data.splits import MEASURED, TEST, TRAIN, measured_split
from dpclean.errors import InputError, UsageError, remedy_where_none, shown_names, told

_HOLDOUT_DOMAIN = b"dpclean-holdout-1"
_ADDRESS = struct.Struct("<Qq")
LeftOut: TypeAlias = Sequence[tuple[str, str]]  # name and reason of each sample that cannot be used


class Labelled(Protocol):
    """Samples with labels, int64 [N], places in their own class list, -1 none."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Images:
    """Every readable sample of a data set, in the order of its listing."""

    names: list[str]
    pixels: list[NDArray[np.uint8]]  # [H,W,C] each, C 1 or 3
    labels: NDArray[np.int64]  # [N], index into classes, -1 none
    indices: NDArray[np.int64]  # [N], place in the frozen listing, from 0
    source_labels: NDArray[np.int64]  # [N], as the listing has them: other than labels where shards name no classes
    classes: tuple[str, ...]  # where shards name none: the integers that occur, in their order
    listed: int  # entries of the listing
    left_out: LeftOut  # samples that cannot be used
    kind: Kind
    has_splits: bool  # top folders are splits (data/splits.py)
    remarks: list[str] = field(default_factory=list)  # on how the folders were read, one sentence each

    def __len__(self) -> int:
        return len(self.names)

    @property
    def quarantined(self) -> dict[str, int]:
        """How many samples are left out, by reason."""
        return by_reason(self.left_out)

    def take(self, chosen: NDArray[np.bool_]) -> Images:
        """The samples where chosen, bool [N], is True; the rest stays as it is."""
        places = np.flatnonzero(chosen)
        return replace(
            self,
            names=[self.names[i] for i in places],
            pixels=[self.pixels[i] for i in places],
            labels=self.labels[places],
            indices=self.indices[places],
            source_labels=self.source_labels[places],
        )


def read_images(
    path: Path,
    options: DataOptions | None = None,
    *,
    limit: int | None = None,
    sample: int | None = None,
    workers: int | None = None,
) -> Images:
    """Read a folder of images or of shards, or one shard, whole into memory.

    limit, sample: which entries of the listing, see data/selection.py; None: all. workers: processes that decode, by
    default one a core.
    Raises InputError where nothing can be read.
    """
    options = options or DataOptions()
    source = open_source(path, options)
    with WorkerPool(workers or len(os.sched_getaffinity(0)), options) as pool:
        entries = list(selected(source, limit, sample))
        samples = list(source.samples(entries, pool))
    usable = [sample for sample in samples if sample.pixels is not None]
    left_out = [(sample.entry.name, sample.reason.value) for sample in samples if sample.reason is not None]
    if not usable:
        raise none_usable(path, len(samples), left_out)
    source_labels = np.array([sample.entry.label for sample in usable], np.int64)
    labels, classes = numbered(source_labels, source.classes)
    return Images(
        names=[sample.entry.name for sample in usable],
        pixels=[sample.pixels for sample in usable if sample.pixels is not None],
        labels=labels,
        indices=np.array([sample.entry.index for sample in usable], np.int64),
        source_labels=source_labels,
        classes=classes,
        listed=len(samples),
        left_out=left_out,
        kind=source.kind,
        has_splits=source.has_splits,
        remarks=source.remarks() + pool.remarks(),
    )


def numbered(labels: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as places in the class list; integers without names become a class each, named by its digits."""
    if classes:
        return labels, classes
    values = np.unique(labels[labels >= 0])
    return np.where(labels >= 0, np.searchsorted(values, labels), -1), tuple(map(str, values.tolist()))


def split(images: Images) -> tuple[Images, Images | None]:
    """Train and test by top folder; validation stands for test where there is no test. Neither there: None.

    Without splits everything is train. With splits, train may come out empty.
    """
    if not images.has_splits:
        return images, None
    tops = np.array([name.partition("/")[0] for name in images.names])
    measured = measured_split(set(tops.tolist()))
    return images.take(tops == TRAIN), images.take(tops == measured) if measured is not None else None


def divide(
    whole: Images,
    *,
    test: Path | None,
    share: float | None,
    default_share: float | None = None,
    workers: int | None = None,
) -> tuple[Images, Images | None, str]:
    """(train, test, where test is from: "test", "holdout", "split" or ""): the one reading of every command.

    test: a data set of its own; of one with splits, its test split. share: of train, to be held out. default_share:
    the same where nothing else gives test images. Test labels are places in the classes of train, -1 none.
    Raises InputError where test cannot be read or has a class that train has not.
    """
    train, in_split = split(whole)
    if test is not None:
        images = read_images(test, workers=workers)
        return train, relabelled(split(images)[1] or images, train.classes), "test"
    if share is None and in_split is not None:
        return train, in_split, "split"
    if (share := share or default_share) is not None:
        held = holdout(train, share)
        return train.take(~held), train.take(held), "holdout"
    return train, None, ""


def remarks(whole: Images, test: Images | None, source: str = "") -> list[str]:
    """What a user should know about how data were read, one sentence each. source: of test, as divide names it."""
    measured = test.names[0].partition("/")[0] if test is not None and test.has_splits and len(test) else TEST
    standing_in = [f"no split is named {TEST!r}: the test images are those of {measured!r}"]
    said = whole.remarks + (standing_in if measured in MEASURED and measured != TEST else [])
    if source != "test" or test is None:
        return said + unusable(whole.left_out, "images")
    return said + unusable(whole.left_out, "images") + test.remarks + unusable(test.left_out, "test images")


def unusable(left_out: LeftOut, what: str) -> list[str]:
    """That there are some which cannot be used, why, and the first names; nothing where there are none."""
    count = len(left_out)
    return [f"{what} that cannot be used and are left out: {count} ({_why(left_out)})"] if count else []


def unlabelled(train: Images) -> list[str]:
    """That there are training images without a class, which nobody trains on; nothing where there are none."""
    names = [name for name, label in zip(train.names, train.labels.tolist(), strict=True) if label < 0]
    return [f"training images without a class, left aside: {len(names)} ({shown_names(names)})"] if names else []


def none_usable(path: Path, files: int, left_out: LeftOut) -> InputError:
    """The refusal of a data set none of whose files is an image that can be used."""
    why = f" ({_why(left_out)})" if left_out else ""
    message = f"none of the {files} files in {str(path)!r} is an image that can be used{why}"
    return InputError(message, remedy_where_none(by_reason(left_out), "look at it"))


def by_reason(left_out: LeftOut) -> dict[str, int]:
    """How many there are of each reason."""
    return dict(sorted(Counter(reason for _, reason in left_out).items()))


def _why(left_out: LeftOut) -> str:
    return told(by_reason(left_out), [name for name, _ in left_out])


def relabelled(images: Images, classes: Sequence[str]) -> Images:
    """Labelled by another class list. Raises InputError where a class is not in it."""
    return replace(images, labels=match_labels(images, classes), classes=tuple(classes))


def match_labels(images: Labelled, classes: Sequence[str]) -> NDArray[np.int64]:
    """The labels as places in another class list, int64 [N], -1 none. Raises InputError where a name is not in it."""
    places = {name: place for place, name in enumerate(classes)}
    used = np.unique(images.labels[images.labels >= 0])
    unknown = [images.classes[label] for label in used if images.classes[label] not in places]
    if unknown:
        named = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise InputError(f"classes that the training data do not have: {named}", "name the classes alike in both")
    table = np.array([places.get(name, -1) for name in images.classes] + [-1], np.int64)
    matched: NDArray[np.int64] = table[images.labels]
    return matched


def holdout(images: Images, fraction: float) -> NDArray[np.bool_]:
    """Which samples are held out, bool [N]: of each class the given fraction, at least one where there are two.

    A fixed function of (index, label): within a class, those with the smallest SHA-256 of "dpclean-holdout-1",
    index u64 LE and label i64 LE. Samples without a label are never held out. Raises UsageError.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"holdout must be between 0 and 1, got {fraction:g}", "0.1 holds out one image of ten")
    held = np.zeros(len(images), np.bool_)
    for label in np.unique(images.labels[images.labels >= 0]).tolist():
        members = np.flatnonzero(images.labels == label)
        count = min(len(members) - 1, max(1, math.floor(fraction * len(members) + 0.5)))
        held[sorted(members, key=lambda member: _rank(int(images.indices[member]), label))[:count]] = True
    return held


def _rank(index: int, label: int) -> bytes:
    return hashlib.sha256(_HOLDOUT_DOMAIN + _ADDRESS.pack(index, label)).digest()


def of_other_shapes(*sets: Images) -> list[str]:
    """The names of images that have another shape [H,W,C] than most."""
    shapes = Counter(image.shape for images in sets for image in images.pixels)
    usual = max(shapes, key=lambda shape: shapes[shape])
    return [
        name for images in sets for name, image in zip(images.names, images.pixels, strict=True) if image.shape != usual
    ]


def names_in(images: Images, hashes: Sequence[bytes], ancestry: Ancestry) -> list[str]:
    """Those of the images, with these pixel_hashes, that an ancestry speaks of."""
    return [name for name, found in zip(images.names, hashes, strict=True) if found in ancestry]


def pixel_hashes(images: Images) -> list[bytes]:
    """SHA-256 of each sample's pixels [H,W,C]."""
    return [pixel_sha256(pixels) for pixels in images.pixels]


def pixel_digest(
    images: Images,
    hashes: Sequence[bytes],
    *,
    indices: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
) -> str:
    """The pixel digest of docs/formats.md, hex, from the samples' pixel_hashes.

    indices and labels: those of the listing unless given. A manifest digests RAW as listed, and OUT with its images
    numbered from 0 and labelled by the manifest's class list.
    """
    digest = PixelDigest()
    rows = zip(
        images.indices.tolist() if indices is None else indices,
        images.names,
        images.source_labels.tolist() if labels is None else labels,
        images.pixels,
        hashes,
        strict=True,
    )
    for index, name, label, pixels, sha256 in rows:
        digest.update(index, name, label, pixels.shape, sha256)
    return digest.hexdigest()
