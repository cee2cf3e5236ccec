"""The record of a job that was begun: what it was begun with, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpclean.errors import InputError
from dpclean.jobs.durable import write_durably
from dpclean.small_files import read_small_file
from dpclean.versioned import check_format

Json = dict[str, Any]
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What is fixed when a job begins. parameters and environment: see Job; found: what begin() found out."""

    kind: str
    parameters: Json
    environment: Json
    found: Json


FIELDS = {"kind": str, "parameters": dict, "environment": dict, "found": dict}


def write_record(path: Path, record: Record) -> None:
    """Write a record whole. Raises SetupError."""
    fields = {"format": FORMAT, **asdict(record)}
    write_durably(path, json.dumps(fields, indent=2).encode() + b"\n")


def read_record(path: Path) -> Record | None:
    """What a record says, None where there is none.

    Raises InputError for a record that is damaged, or no file, and ConflictError for one of another format.
    """
    remedy = "start again with --overwrite"
    try:
        fields = json.loads(read_small_file(path))
        if not isinstance(fields, dict) or not all(isinstance(fields.get(name), kind) for name, kind in FIELDS.items()):
            raise ValueError(f"it does not have {', '.join(FIELDS)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}", remedy) from error
    check_format(path, fields, FORMAT, remedy=f"go on with the dpclean that wrote it, or {remedy}")
    if type(fields.get("format")) is not int or fields["format"] != FORMAT:
        raise InputError(f"{str(path)!r} is damaged: it has no format", remedy)
    return Record(**{name: fields[name] for name in FIELDS})


def differences(begun: Json, asked: Json) -> tuple[str, str] | None:
    """In words, what of two sets of parameters differs, as the first has it and as the second; None: nothing."""
    differing = list(_differing(begun, asked))
    if not differing:
        return None
    first, second = (", ".join(f"{name} {shown[side]}" for name, *shown in differing) for side in (0, 1))
    return first, second


def _differing(begun: Json, asked: Json, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(name, begun, asked) of what differs; of tables that both have, what differs in them."""
    for name in {**begun, **asked}:
        old, new, words = begun.get(name), asked.get(name), prefix + name.replace("_", "-")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{words} ")
        elif old != new:
            yield words, _short(old), _short(new)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {str(item)[:16]}" for name, item in sorted(value.items())) + ")"
    text = "none" if value is None or value == [] else str(value)
    return text if len(text) <= 40 else text[:16] + "..."
