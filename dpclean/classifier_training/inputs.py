"""What `train` trains on and is tested on: read, named alike, counted, and checked against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpclean.classifier_training.options import TrainOptions
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry, ancestry_of_data
from dpclean.data.dataset import (
    Images,
    Labelled,
    divide,
    match_labels,
    pixel_digest,
    pixel_hashes,
    read_images,
    remarks,
    unlabelled,
)
from dpclean.data.manifest import Manifest
from dpclean.data.records import DataOptions
from dpclean.errors import InputError, shown_names


@dataclass(frozen=True)
class Inputs:
    """The images of a training. not_sanitized: why these data are not sanitized data, one sentence each."""

    train: Images  # with labels only
    test: Images | None  # labels are places in the classes of train
    test_source: str  # "test", "split", "holdout" or ""
    manifest: Manifest | None
    manifest_sha256: str | None
    ancestry: Ancestry  # the images themselves, and what they were made of
    train_digest: str
    test_digest: str | None
    shared: int  # test images that are among the training images, or among what these were made of
    remarks: list[str]  # on how the folders were read, one sentence each
    not_sanitized: list[str]


def read_inputs(clean: Path, options: TrainOptions, denoiser: Ancestry) -> Inputs:
    """Read CLEAN and the test images into memory. denoiser: what the one was made of that is used on them, if any is.

    Raises InputError where a class has no training image or the test images have classes that CLEAN has not.
    """
    manifest = manifests.read(clean)
    whole = read_images(clean, data_options(manifest), workers=options.workers)
    hashes = pixel_hashes(whole)
    train, test, source = divide(whole, test=options.test, share=options.holdout, workers=options.workers)
    test = test.take(test.labels >= 0) if test is not None else None
    labelled = train.take(train.labels >= 0)
    check_classes(labelled, manifest.classes if manifest is not None else ())
    train_hashes = pixel_hashes(labelled)
    test_hashes = pixel_hashes(test) if test is not None else []
    inherited = ancestry_of_data(clean) | denoiser
    known = set(train_hashes)
    train_digest = pixel_digest(labelled, train_hashes)
    return Inputs(
        train=labelled,
        test=test,
        test_source=source,
        manifest=manifest,
        manifest_sha256=manifests.sha256(clean) if manifest is not None else None,
        ancestry=Ancestry.of(hashes, *([train_digest] if manifest is None else [])) | inherited,
        train_digest=train_digest,
        test_digest=pixel_digest(test, test_hashes) if test is not None else None,
        shared=sum(found in known or (source == "test" and found in inherited) for found in test_hashes),
        remarks=remarks(whole, test, source) + unlabelled(train),
        not_sanitized=_not_sanitized(clean, whole, hashes, manifest),
    )


def data_options(manifest: Manifest | None) -> DataOptions:
    """Sanitized data as they were written: an alpha plane in them is unsanitized and is left unread."""
    if manifest is None:
        return DataOptions()
    asked = manifest.parameters
    return DataOptions(
        alpha_policy="drop", max_pixels=asked["max_pixels"], layout=asked["layout"], **manifest.raw.limits()
    )


def check_classes(train: Labelled, expected: Sequence[str] = ()) -> None:
    """Refuse what nothing can be learned from. expected: classes that should be there, by a manifest.

    A class that has lost all its images has no folder in sanitized data, so nothing but the manifest tells of it.
    """
    if len(train.classes) < 2:
        message = f"the training data have {len(train.classes)} class{'' if len(train.classes) == 1 else 'es'}"
        raise InputError(f"{message}, a classifier needs two", "sort the images into one folder a class")
    counts = np.bincount(train.labels, minlength=len(train.classes))
    empty = [name for name, count in zip(train.classes, counts, strict=True) if count == 0]
    lost = [name for name in expected if name not in train.classes]
    if empty + lost:
        named = shown_names(empty + lost)
        raise InputError(
            f"classes without a training image: {named}",
            "add images to them in the raw data, or remove them there, and sanitize again"
            if lost
            else "add images, or remove these classes",
        )


def images_by_class(train: Images) -> dict[str, int]:
    """How many there are, by name."""
    counts: NDArray[np.int64] = np.bincount(train.labels, minlength=len(train.classes))
    return dict(zip(train.classes, counts.tolist(), strict=True))


def without_looking(clean: Path, manifest: Manifest | None) -> list[str]:
    """Why data are not sanitized data, as far as it can be told before they are read."""
    if manifest is None:
        return [f"the training data have no {manifests.NAME}, so nothing says that they are sanitized"]
    reasons = [] if manifest.sanitized and manifest.noise.sigma > 0 else ["sigma is 0: the data are not sanitized"]
    return reasons + ([f"their {manifests.NAME} was edited"] if manifests.was_edited(clean, manifest) else [])


def is_what_was_written(whole: Images, hashes: Sequence[bytes], manifest: Manifest) -> bool:
    """Whether images are the sanitized ones that a manifest speaks of."""
    known = whole.classes if not manifest.classes else manifest.classes
    if not set(whole.classes) <= set(known):
        return False
    labels = whole.source_labels if not manifest.classes else match_labels(whole, known)
    digest = pixel_digest(whole, hashes, indices=range(len(whole)), labels=labels.tolist())
    return digest == manifest.output.pixel_digest


def _not_sanitized(clean: Path, whole: Images, hashes: Sequence[bytes], manifest: Manifest | None) -> list[str]:
    reasons = without_looking(clean, manifest)
    if manifest is not None and not is_what_was_written(whole, hashes, manifest):
        reasons.append("the training data are not those that their manifest speaks of: they have changed since")
    return reasons
