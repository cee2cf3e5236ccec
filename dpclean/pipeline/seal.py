"""What makes a folder of sanitized data a record: manifest, ancestry, checksums."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dpclean import __version__
from dpclean.data.ancestry import Ancestry
from dpclean.data.digest import PixelDigest
from dpclean.data.names import to_text
from dpclean.data.source import Source
from dpclean.jobs import manifest as manifests
from dpclean.jobs.ledger import DONE, LEFT_BEHIND, Ledger
from dpclean.jobs.staging import write_durably
from dpclean.noise import kernel_name
from dpclean.noise.keys import commitment

if TYPE_CHECKING:
    from dpclean.denoise.denoiser import Denoiser
    from dpclean.pipeline.options import Options

NOISE_SPECIFICATION = 1
SANITIZE_RUN = 0  # certify uses runs 1..n


def seal(
    folder: Path,
    out: Path,
    raw: Path,
    ledger: Ledger,
    source: Source,
    denoiser: Denoiser,
    options: Options,
    key: bytes,
    inherited: Ancestry,
) -> manifests.Manifest:
    """Write manifest, ancestry and checksums into a folder that is to become out; returns the manifest.

    inherited: what RAW and the denoiser were made of.
    """
    manifest = manifests.Manifest(
        format=manifests.FORMAT,
        tool=f"dpclean {__version__}",
        sanitized=options.sigma > 0,
        parameters=ledger.get("parameters"),
        raw=manifests.Raw(
            path=os.path.relpath(raw, out),
            kind=source.kind,
            listed=ledger.count(),
            images=ledger.count(DONE),
            pixel_digest=_raw_digest(ledger),
        ),
        noise=manifests.Noise(
            sigma=options.sigma,
            specification=NOISE_SPECIFICATION,
            run=SANITIZE_RUN,
            key_commitment=commitment(key),
            key=key.hex() if options.reveal_key else None,
            seed=options.seed,
        ),
        denoiser=_denoiser(ledger, denoiser),
        classes=list(source.classes),
        images_by_class=_images_by_class(ledger, source),
        output=manifests.Output(
            kind=source.kind,
            format=options.format if source.kind == "folder" else "safetensors",
            images=ledger.count(DONE),
            pixel_digest=_clean_digest(ledger, source.kind == "shards"),
            unsanitized=list(source.unsanitized()) + (["alpha"] if options.alpha_policy == "keep" else []),
        ),
        quarantined=ledger.reasons(),
        left_behind=ledger.count(LEFT_BEHIND),
        not_finite_retried=ledger.get("retried"),
        host={**ledger.get("engine")["versions"], "kernel": kernel_name(), "platform": platform.platform()},
    )
    ancestry = Ancestry.of(ledger.raw_prefixes(), manifest.raw.pixel_digest) | inherited
    write_durably(folder / manifests.ANCESTRY_NAME, ancestry.dump())
    write_with_sums(folder, manifest)
    return manifest


def write_with_sums(folder: Path, manifest: manifests.Manifest) -> None:
    """The manifest, and SHA256SUMS of it and of every data file, as `sha256sum -c` reads it."""
    write_durably(folder / manifests.NAME, manifests.dump(manifest))
    files = sorted(_data_files(folder), key=os.fsencode)
    with ThreadPoolExecutor(4) as threads:
        sums = threads.map(lambda name: _sha256(folder / name), files)
        write_durably(folder / manifests.CHECKSUMS_NAME, b"".join(map(_sum_line, sums, files)))


def _denoiser(ledger: Ledger, denoiser: Denoiser) -> manifests.Denoiser:
    return manifests.Denoiser(
        id=denoiser.id,
        digests=ledger.get("parameters")["denoiser_digests"],
        prediction_type=denoiser.prediction_type,
        timestep=denoiser.level.timestep,
        alphas_cumprod=denoiser.level.alphas_cumprod,
        method=denoiser.method,
        device=denoiser.device.type,
        dtype=denoiser.dtype,
        batch_pixels=denoiser.shapes.batch_pixels,
        tile=denoiser.shapes.tile,
        overlap=denoiser.shapes.overlap,
    )


def _images_by_class(ledger: Ledger, source: Source) -> dict[str, int]:
    by_label = ledger.labels_done()
    return {name: by_label.get(label, 0) for label, name in enumerate(source.classes)}


def _raw_digest(ledger: Ledger) -> str:
    """Pixel digest of the raw samples that were used, at their places in the frozen listing."""
    digest = PixelDigest()
    for done in ledger.done():
        digest.update(done.position, to_text(done.name), done.label, done.shape, done.raw_sha256)
    return digest.hexdigest()


def _clean_digest(ledger: Ledger, shards: bool) -> str:
    """Pixel digest of the sanitized samples, in the order in which OUT lists them itself."""
    digest, row, previous = PixelDigest(), 0, b""
    for index, done in enumerate(ledger.done(by_target=True)):
        row = row + 1 if done.target == previous else 0
        previous = done.target
        name = to_text(done.target) + (f"#{row}" if shards else "")
        digest.update(index, name, done.label, done.shape, done.clean_sha256)
    return digest.hexdigest()


def _data_files(folder: Path) -> Iterator[str]:
    """Every file below folder but the ledger and the sums themselves, as paths relative to it."""
    skipped = {manifests.LEDGER_NAME, manifests.CHECKSUMS_NAME}
    for base, _, names in os.walk(folder):
        yield from (
            os.path.relpath(os.path.join(base, name), folder)
            for name in names
            if not (Path(base) == folder and name in skipped)
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_line(digest: str, name: str) -> bytes:
    """A line as sha256sum writes it: a name with backslash, newline or return is escaped, and the line marked."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != name else ""
    return os.fsencode(f"{mark}{digest}  {escaped}\n")
