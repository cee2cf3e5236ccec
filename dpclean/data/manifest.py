"""The manifest of sanitized data, `dpclean.json`: what was done, exactly enough to do it again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dpclean.small_files import check_regular_file
from dpclean.versioned import read_versioned

NAME = "dpclean.json"
LEDGER_NAME = "dpclean.ledger.sqlite"
ANCESTRY_NAME = "dpclean.ancestry"
CHECKSUMS_NAME = "SHA256SUMS"
NAMES = (NAME, LEDGER_NAME, ANCESTRY_NAME, CHECKSUMS_NAME)
FORMAT = 1
REMEDY = f"restore the file, or sanitize again; in raw data {NAME} is not of your making: remove it there"


class Raw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data that went in. pixel_digest: see docs/formats.md."""

    path: str  # relative to OUT
    kind: Literal["folder", "shards"]
    listed: int
    images: int
    pixel_digest: str
    decode_timeout: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 30.0  # the limits with which it was read
    decode_memory: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)] = 1 << 30

    def limits(self) -> dict[str, Any]:
        """With which the same images are read again, as options of the reader."""
        return {"decode_timeout": self.decode_timeout, "decode_memory": self.decode_memory}


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The noise that was added. sigma is on the [0, 1] pixel scale. runs: images by run, if not all are of run 0."""

    sigma: float
    specification: int
    run: int
    key_commitment: str | None
    key: str | None = None
    seed: int | None = None
    runs: dict[int, int] | None = None


class Denoiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network that removed it, and the shapes it ran in."""

    id: str
    digests: dict[str, str]
    prediction_type: str
    timestep: float
    alphas_cumprod: float
    method: str
    device: str
    dtype: str
    batch_pixels: int
    tile: int
    overlap: int


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data that came out."""

    kind: Literal["folder", "shards"]
    format: str
    images: int
    pixel_digest: str
    unsanitized: list[str]  # tensors and planes that were copied as they are


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `train` and `certify` need to know about a sanitized data set."""

    format: int
    tool: str
    sanitized: bool  # False where sigma is 0
    parameters: dict[str, Any]  # every option that changes what the data are
    raw: Raw
    noise: Noise
    denoiser: Denoiser
    classes: list[str]
    images_by_class: dict[str, int]
    output: Output
    quarantined: dict[str, int]
    left_behind: int
    not_finite_retried: int
    host: dict[str, str]


Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]


class _Asked(msgspec.Struct):
    """What of a manifest's parameters others rely on; there are more."""

    sigma: float
    alpha_policy: Literal["composite", "drop", "keep", "reject"]
    layout: str | None
    format: str
    follow_links: bool
    max_pixels: int
    limit: Count | None
    sample: Count | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.sample is not None:
            raise ValueError("it has both a limit and a sample")


def dump(manifest: Manifest) -> bytes:
    """The manifest as indented JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def with_key(manifest: Manifest, key: bytes) -> Manifest:
    """The manifest with the noise key revealed."""
    return msgspec.structs.replace(manifest, noise=msgspec.structs.replace(manifest.noise, key=key.hex()))


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none.

    Raises ConflictError for one of a newer format, InputError for one that is damaged or edited out of form.
    """
    return read_versioned(folder / NAME, FORMAT, _parsed, "is no manifest", REMEDY)


def _parsed(fields: Any) -> Manifest:
    manifest = msgspec.convert(fields, Manifest, str_keys=True)
    msgspec.convert(manifest.parameters, _Asked)
    return manifest


def sha256(folder: Path) -> str:
    """The digest of the manifest of a folder, in hex. Raises OSError."""
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def was_edited(folder: Path, manifest: Manifest) -> bool:
    """Whether a manifest contradicts itself or the checksums beside it. Nothing keeps forgers from changing all."""
    if manifest.noise.sigma != manifest.parameters.get("sigma"):
        return True
    sums = folder / CHECKSUMS_NAME
    try:
        check_regular_file(sums)
        with sums.open("rb") as file:
            told = [line.split()[0].decode() for line in file if line.endswith(b"  " + NAME.encode() + b"\n")]
    except (OSError, ValueError):
        return False
    return told != [sha256(folder)]
