"""Keys against their definitions in hashlib's and hmac's own words."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from dpclean.errors import UsageError
from dpclean.noise.keys import commitment, draw_key, key_from_seed, subkey


def test_drawn_keys_differ() -> None:
    keys = {draw_key() for _ in range(8)}
    assert len(keys) == 8 and {len(k) for k in keys} == {32}


def test_key_from_seed() -> None:
    assert key_from_seed(7, "sanitize") == hashlib.sha256(b"dpclean-seed-1sanitize\x07" + bytes(7)).digest()
    assert key_from_seed(7, "certify") != key_from_seed(7, "sanitize") != key_from_seed(8, "sanitize")
    for seed in (-1, 2**64):
        with pytest.raises(UsageError):
            key_from_seed(seed, "sanitize")


def test_commitment_and_subkey() -> None:
    key = bytes(range(32))
    assert commitment(key) == hashlib.sha256(key).hexdigest()
    assert subkey(key, "train") == hmac.new(key, b"dpclean/1/train", hashlib.sha256).digest()
    with pytest.raises(UsageError):
        subkey(b"short", "train")
