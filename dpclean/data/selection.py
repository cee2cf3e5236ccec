"""Which entries of a listing a job is about: all, the first, or a sample with every class in its share.

Names and classes alone decide, so that nobody moves the choice by what is in an image.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from dpclean.data.records import Entry
from dpclean.data.sources import Source
from dpclean.errors import InputError, UsageError


def selected(source: Source, limit: int | None = None, sample: int | None = None) -> Iterator[Entry]:
    """The entries of a source that are asked for, numbered from 0.

    limit: only the first. sample: of each class an even share, at even distances: of the n entries of a class, in the
    order of the listing, those at floor((2 i + 1) n / (2 k)) for i from 0 to k - 1, where `shares` says k.
    Raises UsageError as check_sample does, InputError where the listing changes meanwhile.
    """
    check_sample(source, sample)
    if sample is None:
        yield from itertools.islice(source.entries(), limit)
        return
    sizes = Counter(entry.label for entry in source.entries())
    share = shares(sizes, sample)
    seen, taken = Counter[int](), Counter[int]()
    for entry in source.entries():
        label = entry.label
        if taken[label] < share.get(label, 0) and seen[label] == _place(taken[label], sizes[label], share[label]):
            yield msgspec.structs.replace(entry, index=taken.total())
            taken[label] += 1
        seen[label] += 1
    if seen != sizes:
        message = f"{str(source.root)!r} changed while it was listed"
        raise InputError(message, "wait until nobody writes to it, then give the same command again")


def check_sample(source: Source, sample: int | None) -> None:
    """Raises UsageError where a sample is asked of shards, whose rows are read and written by their places."""
    if sample is not None and source.names_rows:
        raise UsageError(
            "--sample is for folders of images, and these are shards",
            "give --limit in its place, or a folder of images",
        )


def shares(sizes: Mapping[int, int], sample: int) -> dict[int, int]:
    """How many of each label a sample has: in proportion to sizes, by largest remainder, the lowest label first.

    Where the sample is large enough for one of each class, a class whose share is below one gets one, and the others
    share the rest. Entries without a class (-1) are a class of their own, but for that.
    """
    rest, left = dict(sizes), min(sample, sum(sizes.values()))
    share: dict[int, int] = {}
    if left >= sum(label >= 0 for label in sizes):
        while small := [label for label in rest if label >= 0 and left * rest[label] < sum(rest.values())]:
            share |= dict.fromkeys(small, 1)
            left -= len(small)
            for label in small:
                del rest[label]
    total = max(1, sum(rest.values()))
    share |= {label: left * size // total for label, size in rest.items()}
    spare = left - sum(share[label] for label in rest)
    for label in sorted(rest, key=lambda label: (-(left * rest[label] % total), label))[:spare]:
        share[label] += 1
    return share


def _place(number: int, size: int, share: int) -> int:
    """Where in its class the entry of that number is: in the middle of its part."""
    return (2 * number + 1) * size // (2 * share)
