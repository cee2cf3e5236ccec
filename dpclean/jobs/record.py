"""The record of a job that an interrupted command left: a JSON object, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpclean.errors import InputError
from dpclean.small_files import read_small_file


def read_record(path: Path, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """What a record says, None where there is none.

    fields: those that it must have, and their kinds. Raises InputError for a record that is damaged, or no file.
    """
    try:
        record = json.loads(read_small_file(path))
        if not isinstance(record, dict) or not all(isinstance(record.get(name), fields[name]) for name in fields):
            raise ValueError(f"it does not have {', '.join(fields)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}", "start again with --overwrite") from error
    return record
