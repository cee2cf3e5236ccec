"""What is certified where rows of features stand for images: the training rows and the test points, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpclean.certify.division import Division, divide
from dpclean.certify.options import CertifyOptions
from dpclean.classifier_training.inputs import check_classes
from dpclean.data.ancestry import Ancestry
from dpclean.data.dataset import match_labels
from dpclean.data.features import Features, read_features
from dpclean.errors import InputError, UsageError

POINT_SOURCE = "test"


@dataclass(frozen=True)
class CertifiedFeatures:
    """The training rows D and the test points. labels of D are places in classes, of points too (-1 unknown)."""

    train: Features
    points: Features
    remarks: list[str]
    raw_digest: str  # of all usable rows
    train_digest: str
    points_digest: str
    ancestry: Ancestry
    points_in_training: int
    division: Division | None  # of D, where each run takes a part of it

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


def read_certified_features(options: CertifyOptions) -> CertifiedFeatures:
    """Read both files and check them against each other.

    Raises InputError where they do not fit each other, a class has no training row, or test classes are unknown.
    """
    if options.features is None or options.test_features is None:
        raise UsageError(
            "--features are what the runs train on, --test-features what they vote on, and one is missing", "give both"
        )
    whole, points = read_features(options.features), read_points(options.test_features)
    if whole.dimensions != points.dimensions:
        raise InputError(
            f"{str(options.features)!r} has rows of {whole.dimensions} numbers, {str(options.test_features)!r} of"
            f" {points.dimensions}",
            "make both with the same extractor",
        )
    if None not in (whole.made_by, points.made_by) and whole.made_by != points.made_by:
        raise InputError(
            f"{str(options.features)!r} and {str(options.test_features)!r} were made by two different extractors",
            "make both with the same extractor",
        )
    train = whole.take(whole.labels >= 0)
    check_classes(train)
    points = replace(points, labels=match_labels(points, train.classes), classes=train.classes)
    raw_digest, train_digest = whole.digest(), train.digest()
    unlabelled = len(whole) - len(train)
    return CertifiedFeatures(
        train=train,
        points=points,
        remarks=[f"{unlabelled} rows have no label and are in no run"] * bool(unlabelled),
        raw_digest=raw_digest,
        train_digest=train_digest,
        points_digest=points.digest(),
        ancestry=Ancestry.of(whole.hashes, raw_digest, train_digest),
        points_in_training=len(set(train.hashes).intersection(points.hashes)),
        division=None if options.partitions is None else divide(train, options.partitions, options.partition_by),
    )


def read_points(path: Path) -> Features:
    """Rows to vote on. Raises InputError where one of them is not finite: a point has no rule to be left out by."""
    points = read_features(path)
    if points.quarantined:
        row = int(np.setdiff1d(np.arange(points.listed), points.indices)[0])
        raise InputError(f"row {row} of {str(path)!r} has a value that is not finite", "leave it out, or make it again")
    return points
