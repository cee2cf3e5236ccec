"""Names of samples: text within dpclean, bytes outside it, the same under every locale."""

from __future__ import annotations


def to_text(name: bytes) -> str:
    """A name as text; bytes that are no UTF-8 become lone surrogates."""
    return name.decode("utf-8", "surrogateescape")


def to_bytes(name: str) -> bytes:
    """The bytes that to_text was given."""
    return name.encode("utf-8", "surrogateescape")


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)
