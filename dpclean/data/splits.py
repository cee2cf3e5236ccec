"""Which top folders of a data set are splits, and which split it is measured on: one reading for every command."""

from __future__ import annotations

from collections.abc import Collection, Iterable

TRAIN, TEST = "train", "test"
MEASURED = (TEST, "val", "valid", "validation")  # the first that is there is what people measure on
SPLITS = frozenset((TRAIN, *MEASURED))


def split_names(folders: Iterable[str]) -> frozenset[str]:
    """The top folders that are splits: all, where all have such names; else those, where train and another are there.

    So a folder of annotations beside the splits changes nothing, and a class of trains is a class.
    """
    names = frozenset(folders)
    splits = names & SPLITS
    return splits if splits == names or (TRAIN in splits and len(splits) > 1) else frozenset()


def measured_split(present: Collection[str]) -> str | None:
    """The split among those present that stands for test images; None where there is none."""
    return next((name for name in MEASURED if name in present), None)
