"""Keys against their definitions in hashlib's and hmac's own words."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from dpclean import _kernels
from dpclean.errors import UsageError
from dpclean.noise.keys import commitment, draw_key, key_from_seed, run_seed, subkey


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


def test_the_seed_of_a_run_is_the_first_eight_bytes_of_its_block() -> None:
    key = bytes(range(32))
    words = _kernels.chacha20(hmac.new(key, b"dpclean/1/train", hashlib.sha256).digest(), 0, 5, 0, 0)
    stream = b"".join(word.to_bytes(4, "little") for word in words)
    assert run_seed(key, "train", 5) == int.from_bytes(stream[:8], "little")
    seeds = {run_seed(key, purpose, run) for purpose in ("train", "sde") for run in range(50)}
    assert len(seeds) == 100
