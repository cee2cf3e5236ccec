"""Keys of the noise: drawn, derived from a seed, committed to. Pure functions of bytes."""

from __future__ import annotations

import hashlib
import hmac
import os

from dpclean import _kernels
from dpclean.errors import UsageError

KEY_BYTES = 32


def check_key(key: bytes) -> bytes:
    """The key itself if it is 32 bytes; UsageError else."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise UsageError(f"a noise key is {KEY_BYTES} bytes, got {got}", "use dpclean.noise.keys.draw_key()")
    return key


def draw_key() -> bytes:
    """32 secret bytes from the operating system."""
    return os.urandom(KEY_BYTES)


def job_key(seed: int | None, job_kind: str) -> bytes:
    """The key of a new job: drawn, or from the seed that was given."""
    return draw_key() if seed is None else key_from_seed(seed, job_kind)


def key_from_seed(seed: int, job_kind: str) -> bytes:
    """SHA-256("dpclean-seed-1", job kind, seed as 8 little-endian bytes): repeatable, hence not secret."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must be from 0 to 2^64 - 1, got {seed}", "choose a seed in that range")
    return hashlib.sha256(b"dpclean-seed-1" + job_kind.encode() + seed.to_bytes(8, "little")).digest()


def commitment(key: bytes) -> str:
    """Hex SHA-256 of the key: binds to it without telling it."""
    return hashlib.sha256(check_key(key)).hexdigest()


def subkey(key: bytes, purpose: str) -> bytes:
    """HMAC-SHA256(key, "dpclean/1/" + purpose): the key of any randomness that is not this noise."""
    return hmac.digest(check_key(key), b"dpclean/1/" + purpose.encode(), "sha256")


def run_seed(key: bytes, purpose: str, run: int) -> int:
    """The seed of a run's other randomness: 8 bytes (u64 LE) of ChaCha20 at that run under the purpose's subkey."""
    low, high = _kernels.chacha20(subkey(key, purpose), 0, run, 0, 0)[:2]
    return low | high << 32
