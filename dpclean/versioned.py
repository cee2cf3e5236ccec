"""Files that say in `format` which form they have: what this dpclean does not read is named as such, not as damaged."""

from __future__ import annotations

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

    Raises ConflictError for a newer format, InputError where the file cannot be read or parse raises a MsgspecError:
    with what is wrong with it in these words and the remedy.
    """
    try:
        raw = read_small_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}", "restore the file") from error
    try:
        fields = msgspec.json.decode(raw)
        check_format(path, fields, newest)
        return parse(fields)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InputError(f"{str(path)!r} {wrong}: {error}", remedy) from error
