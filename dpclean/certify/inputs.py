"""What is certified: the data set that every run noises, and the test points that every run votes on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from dpclean.certificate.parameters import RecordedAncestry
from dpclean.certificate.threats import find_threat
from dpclean.certify.division import Division, divide
from dpclean.certify.options import OF_NOISE, CertifyOptions
from dpclean.classifier_training.inputs import check_classes, data_options, is_what_was_written
from dpclean.data import manifest as manifests
from dpclean.data.ancestry import Ancestry
from dpclean.data.dataset import (
    Images,
    by_reason,
    names_in,
    pixel_digest,
    pixel_hashes,
    read_images,
    remarks,
    unlabelled,
)
from dpclean.data.dataset import divide as divide_from_points
from dpclean.data.manifest import Manifest
from dpclean.data.names import to_bytes, to_text
from dpclean.data.records import DataOptions
from dpclean.denoise.loading import BUNDLED, DenoiserFiles, find_denoiser
from dpclean.errors import InputError, Reason, UsageError, printable, shown_names, told
from dpclean.pipeline.ledger import Ledger

DEFAULT_HOLDOUT = 0.1
BY_HAND = f"name them with --raw; in raw data {manifests.NAME} is not of your making: remove it there"


@dataclass(frozen=True)
class DataSource:
    """Where the data are and how they are read: from what `sanitize` wrote, or from raw data directly."""

    raw: Path
    sigma: str
    denoiser: str
    method: str
    data_options: DataOptions
    limit: int | None
    sample: int | None
    manifest: Manifest | None
    unfinished: frozenset[str]  # names that sanitize left out as not finite; certify keeps them
    clean: Path | None = None  # where the manifest lies
    taken: str = ""  # what the manifest decides, for the user to hear

    @property
    def noised(self) -> bool:
        return Fraction(self.sigma) > 0


@dataclass(frozen=True)
class CertifiedData:
    """The training set D and the test points. labels of D are places in classes, of points too (-1 unknown)."""

    source: DataSource
    denoiser: DenoiserFiles | None  # None: an extractor gets the images as they are
    train: Images
    points: Images
    point_source: str  # "test" | "split" | "holdout"
    remarks: list[str]  # on how the folders were read, one sentence each
    raw_digest: str  # of everything readable in RAW
    train_digest: str
    points_digest: str
    ancestry: Ancestry  # what no weights may be made of: everything readable in RAW, points that are noised
    point_images: Ancestry
    points_in_training: int
    division: Division | None  # of D, where each run takes a part of it

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def values(self) -> int:
        """Pixel values of D, all of which are noised in each run."""
        return sum(image.size for image in self.train.pixels)


def find_source(path: Path, options: CertifyOptions) -> DataSource:
    """What a path means to `certify`: a folder with a manifest names its raw data, any other one is raw data.

    Raw data come from strangers, who may have put a manifest into them. It may not lead to its own folder, nor choose
    a denoiser from elsewhere, and what it does choose is said.
    """
    manifest = manifests.read(path)
    if manifest is None:
        return _source_of_raw(path, options)
    if manifests.was_edited(path, manifest):
        raise InputError(
            f"{str(path / manifests.NAME)!r} contradicts itself or {manifests.CHECKSUMS_NAME}: it was edited",
            "restore it, or sanitize again",
        )
    sigma = str(manifest.noise.sigma)
    if options.sigma is not None and float(options.sigma) != manifest.noise.sigma:
        raise UsageError(
            f"{str(path)!r} was sanitized at sigma {sigma}, --sigma says {options.sigma}",
            "leave --sigma out, or give the raw data themselves to certify at another sigma",
        )
    asked, denoiser = manifest.parameters, options.denoiser or manifest.denoiser.id
    if options.denoiser is None and denoiser not in BUNDLED:
        raise UsageError(
            f"{str(path)!r} says that it was sanitized with the denoiser {denoiser!r}, which is not bundled, and a"
            " certificate rests on it",
            f"if you trust it, say so: --denoiser {shlex.quote(printable(denoiser))}",
        )
    if asked["alpha_policy"] == "keep":
        raise InputError(
            f"{str(path)!r} was made with --alpha-policy keep: unsanitized planes reach whoever trains on it",
            "sanitize again with another alpha policy",
        )
    if options.limit is not None and options.limit != asked["limit"]:
        raise UsageError("--limit is that of the sanitized data", "leave it out")
    read = DataOptions(
        alpha_policy=asked["alpha_policy"],
        max_pixels=asked["max_pixels"],
        follow_links=asked["follow_links"],
        layout=asked["layout"],
        output_format=asked["format"],
        **manifest.raw.limits(),
    )
    raw = options.raw or _raw_of(path, manifest)
    return DataSource(
        raw=raw,
        sigma=options.sigma or sigma,
        denoiser=denoiser,
        method=options.method or manifest.denoiser.method,
        data_options=read,
        limit=asked["limit"],
        sample=asked.get("sample"),
        manifest=manifest,
        unfinished=_unfinished(path) if Reason.NOT_FINITE in manifest.quarantined else frozenset(),
        clean=path,
        taken=f"{str(path)!r} has a {manifests.NAME}, so it is taken as sanitized data; to be certified are the raw"
        f" ones in {str(raw)!r}, read with alpha-policy {read.alpha_policy}, layout {read.layout},"
        f" follow-links {'on' if read.follow_links else 'off'}, max-pixels {read.max_pixels},"
        f" decode-timeout {read.decode_timeout:g}, decode-memory {read.decode_memory},"
        f" limit {asked['limit'] or 'none'}, sample {asked.get('sample') or 'none'};"
        f" sigma is {options.sigma or sigma}, the denoiser {denoiser},"
        f" the method {options.method or manifest.denoiser.method}",
    )


def _raw_of(clean: Path, manifest: Manifest) -> Path:
    """Where a manifest says that its raw data are. Raises InputError where `sanitize` cannot have written that."""
    try:
        raw = Path(os.path.normpath(clean / os.fsdecode(to_bytes(manifest.raw.path))))
        places = raw.resolve(), clean.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the manifest in {str(clean)!r} names no possible place of raw data: {error}", BY_HAND
        ) from error
    if places[0] == places[1] or places[0] in places[1].parents or places[1] in places[0].parents:
        raise InputError(f"the manifest in {str(clean)!r} leads to its own folder for the raw data", BY_HAND)
    return raw


def _source_of_raw(path: Path, options: CertifyOptions) -> DataSource:
    if not path.exists():
        raise InputError(
            f"{str(path)!r} is not there", "name what 'dpclean sanitize' wrote, or raw data together with --sigma"
        )
    sigma = options.sigma
    if sigma is None and (options.partitions is not None or options.extractor is not None):
        sigma = "0"  # of parts noise proves nothing; frozen features learn from the few images of a share without it
    if sigma is None:
        raise UsageError(
            f"{str(path)!r} has no {manifests.NAME}, so it is taken as raw data, and those need --sigma",
            "give --sigma, or what 'dpclean sanitize' wrote",
        )
    if options.raw is not None:
        raise UsageError(f"{str(path)!r} is raw data itself, --raw names others", "leave one of them out")
    return DataSource(
        raw=path,
        sigma=sigma,
        denoiser=options.denoiser or "natural",
        method=options.method or "one-step",
        data_options=DataOptions(),
        limit=options.limit,
        sample=None,
        manifest=None,
        unfinished=frozenset(),
    )


def _unfinished(clean: Path) -> frozenset[str]:
    with closing(Ledger(clean / manifests.LEDGER_NAME, writable=False)) as ledger:
        return frozenset(to_text(name) for name, reason in ledger.quarantined() if reason == Reason.NOT_FINITE)


def read_certified_data(source: DataSource, options: CertifyOptions) -> CertifiedData:
    """Read RAW and the test points into memory and check them against what is known of them.

    Raises InputError where RAW is not what was sanitized, a class has no training image, test classes are unknown, or
    the denoiser was fitted on images of RAW.
    """
    if source.clean is not None and source.manifest is not None:
        _check_clean(source.clean, source.manifest, options)
    files = _denoiser(source) if options.extractor is None or source.noised else None
    read = source.data_options if files is None else replace(source.data_options, channels=files.channels)
    whole = read_images(source.raw, read, limit=source.limit, sample=source.sample, workers=options.workers)
    hashes = pixel_hashes(whole)
    digest = pixel_digest(whole, hashes)
    _check_digest(source, whole, hashes, digest)
    train, points, point_source = divide_from_points(
        whole, test=options.test, share=options.holdout, default_share=DEFAULT_HOLDOUT, workers=options.workers
    )
    assert points is not None  # a share is held out where nothing else gives them
    without_class = unlabelled(train)
    train = train.take(train.labels >= 0)
    check_classes(train, source.manifest.classes if source.manifest is not None else ())
    if files is None and (given := options.given(OF_NOISE)):
        raise UsageError(
            f"--{given[0].replace('_', '-')} has no meaning where an extractor gets images without noise",
            "give a --sigma above 0, or leave it out",
        )
    train_hashes, point_hashes = pixel_hashes(train), pixel_hashes(points)
    train_digest, point_images = pixel_digest(train, train_hashes), Ancestry.of(point_hashes)
    ancestry = Ancestry.of(hashes, digest, train_digest)
    if source.manifest is not None:
        ancestry |= Ancestry.of((), source.manifest.raw.pixel_digest)
    if find_threat(options.threat).noises_points:  # a claim covers changes of the point too
        ancestry |= point_images
    certified = CertifiedData(
        source=source,
        denoiser=files,
        train=train,
        points=points,
        point_source=point_source,
        remarks=remarks(whole, points, point_source) + without_class + (_outsized(train) if source.noised else []),
        raw_digest=digest,
        train_digest=train_digest,
        points_digest=pixel_digest(points, point_hashes),
        ancestry=ancestry,
        point_images=point_images,
        points_in_training=len(set(train_hashes).intersection(point_hashes)),
        division=None if options.partitions is None else divide(train, options.partitions, options.partition_by),
    )
    if files is not None:
        check_ancestry(f"the denoiser {files.id!r}", files.ancestry(), certified)
    return certified


def _outsized(train: Images) -> list[str]:
    """That one image takes more of each run than all others together, in a sentence; nothing where none does."""
    values = [image.size for image in train.pixels]
    share, name = max(values) / sum(values), train.names[int(np.argmax(values))]
    if share <= 0.5 or len(train) < 3:
        return []
    return [
        f"{name!r} has {100 * share:.0f} % of all pixels, which each run noises and denoises: runs are faster without"
    ]


def _check_clean(clean: Path, manifest: Manifest, options: CertifyOptions) -> None:
    """Refuse a folder whose manifest speaks of other sanitized images than are there."""
    images = read_images(clean, data_options(manifest), workers=options.workers)
    if not is_what_was_written(images, pixel_hashes(images), manifest):
        raise InputError(
            f"the images in {str(clean)!r} are not those that its {manifests.NAME} speaks of",
            f"restore them, or sanitize again; in raw data {manifests.NAME} is not of your making: remove it there",
        )


def _check_digest(source: DataSource, whole: Images, hashes: Sequence[bytes], digest: str) -> None:
    """Refuse raw data other than those that the manifest speaks of."""
    if source.manifest is None:
        return
    if source.unfinished:
        kept = np.array([name not in source.unfinished for name in whole.names])
        digest = pixel_digest(whole.take(kept), [hash for hash, keep in zip(hashes, kept, strict=True) if keep])
    if digest != source.manifest.raw.pixel_digest:
        raise InputError(
            f"the images in {str(source.raw)!r} are not those that were sanitized{_others(source, whole, hashes)}:"
            f" their digest is {digest[:16]}..., the manifest says {source.manifest.raw.pixel_digest[:16]}...",
            "restore them, name their place with --raw, or sanitize again",
        )


def _others(source: DataSource, whole: Images, hashes: Sequence[bytes]) -> str:
    """The first images that are others than the ledger of the sanitized ones says, or not there, for a sentence."""
    assert source.clean is not None
    with closing(Ledger(source.clean / manifests.LEDGER_NAME, writable=False)) as ledger:
        before = {to_text(image.name): image.raw_sha256 for image in ledger.done()}
    now = {name: found for name, found in zip(whole.names, hashes, strict=True) if name not in source.unfinished}
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    unusable = by_reason([(name, reason) for name, reason in whole.left_out if name in before])
    why = f"; {told(unusable)} now" if unusable else ""
    return f" ({shown_names(names)}{why})" if names else ""


def _denoiser(source: DataSource) -> DenoiserFiles:
    files = find_denoiser(source.denoiser)
    if source.manifest is not None and source.denoiser == source.manifest.denoiser.id:
        if files.digests() != source.manifest.denoiser.digests:
            raise InputError(
                f"the denoiser {files.id!r} is not the one that the data were sanitized with",
                "restore its files, or name another one with --denoiser",
            )
    return files


def check_ancestry(what: str, theirs: Ancestry, certified: CertifiedData) -> None:
    """Refuse weights that were made from what is certified, as far as anything tells. Raises InputError."""
    if shared := theirs.shared_images(certified.ancestry):
        sets = (certified.train, certified.points)
        both = Ancestry(np.intersect1d(theirs.images, certified.ancestry.images))
        names = [name for images in sets for name in names_in(images, pixel_hashes(images), both)]
        named = f" ({shown_names(names)})" if names else ""
        raise InputError(
            f"{shared} of the images to be certified went into {what}, which then is not fixed while they change"
            f"{named}",
            "use weights that never saw these images, or leave the images out",
        )
    if theirs.raw_pixel_digests & certified.ancestry.raw_pixel_digests:
        raise InputError(
            f"the data to be certified went into {what}, which then is not fixed while they change",
            "use weights that never saw these images",
        )


class HasPoints(Protocol):
    """What is certified, with the test points as far as other images can be compared with them."""

    @property
    def point_images(self) -> Ancestry: ...


def known_of(ancestry: Ancestry, certified: HasPoints) -> RecordedAncestry:
    """What is recorded of where weights come from; points: how many of the test points went in."""
    return RecordedAncestry(
        images=len(ancestry.images),
        gaps=sorted(ancestry.gaps),
        points=ancestry.shared_images(certified.point_images),
    )
