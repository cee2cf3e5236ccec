"""The pixel digest: one SHA-256 over every sample of a data set, whatever files held it."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dpclean.data.names import to_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAME = struct.Struct("<QI")
_REST = struct.Struct("<qIII")
_BLOCK = 256  # samples that are hashed together


def pixel_sha256(pixels: NDArray[np.uint8]) -> bytes:
    """SHA-256 of one image's bytes in order [H,W,C]; 32 bytes."""
    return hashlib.sha256(pixels.data if pixels.flags.c_contiguous else pixels.tobytes()).digest()


def content_sha256(values: NDArray[np.generic]) -> bytes:
    """SHA-256 over the type, the shape and the values of an array, little-endian; 32 bytes."""
    shape = " ".join(map(str, values.shape))
    digest = hashlib.sha256(f"{values.dtype.name} {shape}\0".encode())
    digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.digest()


def identity_of(index: int, name: str, planes: bytes = b"") -> bytes:
    """What a worker echoes of what it was asked, so that no answer can pass for another's; 16 bytes."""
    encoded = to_bytes(name)
    digest = hashlib.blake2b(_NAME.pack(index, len(encoded)) + encoded, digest_size=16)
    digest.update(planes)
    return digest.digest()


class PixelDigest:
    """SHA-256 over index u64, length of the name u32, name, label i64, H, W, C u32 (all LE), SHA-256 of the pixels."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, index: int, name: str, label: int, shape: tuple[int, ...], pixel_sha256: bytes) -> None:
        """Adds the next sample; shape is (H, W, C), label -1 for none."""
        height, width, channels = shape
        self.update_all([(index, (to_bytes(name), label, height, width, channels, pixel_sha256))])

    def update_all(self, samples: Iterable[tuple[int, tuple[bytes, int, int, int, int, bytes]]]) -> None:
        """Adds samples: index, and name as its bytes, label, H, W, C, SHA-256 of the pixels of each."""
        pack, pack_rest = _NAME.pack, _REST.pack
        pieces = (
            pack(index, len(name)) + name + pack_rest(label, height, width, channels) + sha256
            for index, (name, label, height, width, channels, sha256) in samples
        )
        while block := b"".join(itertools.islice(pieces, _BLOCK)):
            self._hash.update(block)

    def hexdigest(self) -> str:
        """The digest of what was added so far."""
        return self._hash.hexdigest()
