"""Files that say in `format` which form they have: what this dpclean does not read is named as such, not as damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dpclean.errors import ConflictError, InputError, printable
from dpclean.small_files import read_small_file

T = TypeVar("T")
LONGEST_TOOL = 100  # characters of what a file says that it was made by


def check_format(path: Path, fields: object, newest: int, *, oldest: int = 1, remedy: str | None = None) -> None:
    """Raises ConflictError where fields are of a format above 0 that is not from oldest to newest.

    What has no such number is for the caller to refuse. remedy: None to name the dpclean that wrote the file.
    """
    found = fields.get("format") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or type(found) is not int or found < 1 or oldest <= found <= newest:
        return
    reads = f"up to {newest}" if oldest == 1 else f"format {newest}"
    named, newer = fields.get("tool"), found > newest
    tool = (
        printable(named[:LONGEST_TOOL]) if isinstance(named, str) else f"{'a newer' if newer else 'an older'} dpclean"
    )
    raise ConflictError(
        f"{str(path)!r} has format {found if found < 10**9 else 'of many digits'}, this dpclean reads {reads}",
        remedy or f"use {tool}" + (" or newer" if newer else ", or make it again"),
    )


def read_versioned(path: Path, newest: int, parse: Callable[[Any], T], wrong: str, remedy: str) -> T | None:
    """What parse makes of a small file of JSON with a format from 1 to newest; None where there is no file.

    Raises ConflictError for a newer format, InputError where the file cannot be read or parse raises a ValueError, as
    msgspec does: with what is wrong with it in these words and the remedy.
    """
    try:
        raw = read_small_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}", "restore the file") from error
    try:
        fields = decoded(raw)
        check_format(path, fields, newest)
        return parse(fields)
    except (ValueError, RecursionError) as error:  # of msgspec too
        raise InputError(f"{str(path)!r} {wrong}: {error}", remedy) from error


def encoded(told: Any) -> bytes:
    """JSON for a file, of what msgspec takes; bytes of names that are not UTF-8 become escaped lone surrogates."""
    return json.dumps(msgspec.to_builtins(told), indent=2, allow_nan=False).encode() + b"\n"


def decoded(raw: bytes) -> Any:
    """What such JSON says; it is UTF-8, and its numbers are finite. Raises ValueError and RecursionError."""
    return json.loads(raw.decode(), parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value
