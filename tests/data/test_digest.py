"""The pixel digest against its definition, computed by hand."""

from __future__ import annotations

import hashlib

import numpy as np

from dpclean.data.digest import PixelDigest, pixel_sha256


def test_the_digest_is_what_the_definition_says() -> None:
    first, second = np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.array([[[7]]], np.uint8)
    digest = PixelDigest()
    digest.update(0, "é\udcff", 4, first.shape, pixel_sha256(first))
    digest.update(258, "x", -1, second.shape, pixel_sha256(second))
    expected = hashlib.sha256(
        b"\0\0\0\0\0\0\0\0" b"\3\0\0\0" b"\xc3\xa9\xff" b"\4\0\0\0\0\0\0\0" b"\1\0\0\0\2\0\0\0\3\0\0\0"
        + hashlib.sha256(bytes(range(6))).digest()
        + b"\2\1\0\0\0\0\0\0" b"\1\0\0\0" b"x" b"\xff\xff\xff\xff\xff\xff\xff\xff" b"\1\0\0\0\1\0\0\0\1\0\0\0"
        + hashlib.sha256(b"\7").digest()
    )  # fmt: skip
    assert digest.hexdigest() == expected.hexdigest()


def test_pixels_are_hashed_in_their_order_not_in_memorys() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    turned = np.asfortranarray(pixels)
    assert not turned.flags.c_contiguous and pixel_sha256(turned) == pixel_sha256(pixels)
