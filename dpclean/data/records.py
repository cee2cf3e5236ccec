"""What passes between reading and writing: one entry of the frozen listing, one decoded sample, the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import msgspec

from dpclean.data.digest import identity_of
from dpclean.errors import InternalError, Reason

if TYPE_CHECKING:  # listing and encoding need no numpy
    import numpy as np
    from numpy.typing import NDArray


Kind = Literal["folder", "shards"]  # of a source, as manifests and certificates have it


class Entry(msgspec.Struct, frozen=True):
    """One line of the frozen listing, known before any image is opened."""

    index: int  # from 0, the position in the listing
    name: str  # POSIX path relative to the root, surrogateescape; or "shard.safetensors#row"
    label: int  # index into the source's classes (the integer itself where shards name no classes), -1 none
    target: str  # folders: relative output name; shards: name of the output shard
    reason: Reason | None  # why it is left out, as far as the listing alone tells

    @property
    def identity(self) -> bytes:
        """What whoever reads this entry echoes."""
        return identity_of(self.index, self.name)


class Sample(msgspec.Struct, frozen=True):
    """One entry after reading: pixels, or the reason why there are none. The answer to another entry makes none.

    identity: what its reader says that it read: index and name, or their digest from another process.
    Raises InternalError where that is not the entry.
    """

    entry: Entry
    pixels: NDArray[np.uint8] | None  # [H,W,C], C 1 or 3, C-contiguous; None when left out
    alpha: NDArray[np.uint8] | None  # [H,W], only with alpha_policy "keep" and an image that has alpha
    format: str  # "png", "jpeg", ... or "shard"; empty when left out
    reason: Reason | None
    left_behind: bool  # no image, and its ending claims none: counted, not quarantined
    identity: tuple[int, str] | bytes

    def __post_init__(self) -> None:
        entry, read = self.entry, self.identity
        if read != ((entry.index, entry.name) if type(read) is tuple else entry.identity):
            raise InternalError(
                f"the answer for {self.entry.name!r} is that for another file",
                "nothing of it was used; please report it",
            )

    @classmethod
    def left_out(cls, entry: Entry, reason: Reason | None) -> Self:
        """An entry that was not read, for a reason."""
        return cls(entry, None, None, "", reason, False, (entry.index, entry.name))


class Written(NamedTuple):
    """The file of one sample, safe on the disk."""

    position: int  # index of the entry
    target: str  # the final name
    sha256: bytes  # of the file


class Rows(NamedTuple):
    """Neighbouring rows of a shard."""

    shard: str
    first: int  # place of the first one
    labels: list[int]
    pixels: NDArray[np.uint8]  # [n,H,W,C]


@dataclass(frozen=True)
class DataOptions:
    """Every option that changes what the samples are or where they go."""

    alpha_policy: str = "composite"  # composite (on white) | drop | keep | reject
    max_pixels: int = 100_000_000
    decode_timeout: float = 30.0  # seconds for one image
    decode_memory: int = 1 << 30  # bytes for one image
    follow_links: bool = False
    layout: str | None = None  # nhwc | nchw; None: guessed where unambiguous
    output_format: str = "png"  # png | webp | same
    channels: int = 3  # the most that are wanted: 1 where a denoiser takes grey images only
    carry: tuple[str, ...] = ()  # tensors of shards to copy unsanitized; ("all",) for all
