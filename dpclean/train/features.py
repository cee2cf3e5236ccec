"""Images to a file of features, by a frozen extractor: what `certify --features` takes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dpclean.data.dataset import names_in, pixel_hashes, read_images, unusable
from dpclean.data.features import EXTRACTOR, FEATURES, NAMES
from dpclean.data.shard import CLASS_NAMES, LABELS
from dpclean.data.shard_header import Tensor, write_header
from dpclean.device import choose_device
from dpclean.errors import ConflictError, InputError, shown_names
from dpclean.jobs.checks import given_path
from dpclean.jobs.durable import write_durably
from dpclean.progress import Pace, Progress, Show, shown_as_asked
from dpclean.train.extractor import BLOCK, Extractor, find_extractor


@dataclass(frozen=True)
class FeaturesResult:
    """What `features` did. quarantined: images that cannot be used, by reason; warnings names the first."""

    out: str
    images: int
    dimensions: int
    classes: list[str]
    extractor: str
    extractor_digest: str
    quarantined: dict[str, int]
    assumption: str  # on where the extractor comes from, "" where all of it is known
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {"format": 1, "command": "features", **asdict(self)}


def features(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    extractor: str,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Show | bool | None = None,
) -> FeaturesResult:
    """One row of features for each image of a folder or of shards, with names and labels, as a safetensors file.

    extractor, weights: see `find_extractor`. Raises InputError where the extractor was made from any of these images,
    ConflictError where OUT is there and overwrite is False, UsageError, SetupError.
    """
    source, target = given_path(images), given_path(out)
    if target.is_dir() or (target.exists() and not overwrite):
        raise ConflictError(f"{str(target)!r} is there already", "give another --out, or --overwrite for a file")
    frozen = find_extractor(extractor, None if weights is None else given_path(weights), device=choose_device(device))
    found = read_images(source, workers=workers)
    if found.has_splits:
        raise InputError(
            f"{str(source)!r} has splits, and rows of one file are all to train on or all to vote on",
            "name one of its folders, and give each a file of its own",
        )
    if shared := names_in(found, pixel_hashes(found), frozen.ancestry):
        raise InputError(
            f"{len(shared)} of these images went into the extractor {extractor!r}, which is not fixed while they change"
            f" ({shown_names(shared)})",
            "use an extractor that never saw them, or leave the images out",
        )
    rows, pace = [], Pace()
    with shown_as_asked(progress) as show:
        for start in range(0, len(found), BLOCK):
            rows.append(frozen.features(found.pixels[start : start + BLOCK]))
            done = min(start + BLOCK, len(found))
            show(Progress(done, len(found), "images", pace.seconds_left(done, len(found))))
    whole = np.concatenate(rows)
    metadata = {
        NAMES: json.dumps(found.names),
        CLASS_NAMES: json.dumps(found.classes),
        EXTRACTOR: json.dumps(described(frozen)),
    }
    data = [np.ascontiguousarray(whole, "<f4"), np.ascontiguousarray(found.labels, "<i8")]
    tensors = {
        FEATURES: Tensor("F32", whole.shape, 0, data[0].nbytes),
        LABELS: Tensor("I64", found.labels.shape, data[0].nbytes, data[1].nbytes),
    }
    write_durably(target, [write_header(tensors, metadata), *(array.tobytes() for array in data)])
    return FeaturesResult(
        out=str(target),
        images=len(found),
        dimensions=int(whole.shape[1]),
        classes=list(found.classes),
        extractor=extractor,
        extractor_digest=frozen.digest,
        quarantined=found.quarantined,
        assumption=frozen.ancestry.because(),
        warnings=found.remarks + unusable(found.left_out, "images"),
    )


def described(extractor: Extractor) -> dict[str, Any]:
    """What a file of features says of how its rows were made."""
    return {"id": extractor.id, "digest": extractor.digest, "size": extractor.size}
