"""Unfinished work of which a bit has changed on the disk: it is named, and what is deleted is done anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpclean.errors import ConflictError


def refused_until_deleted(path: Path, command: Callable[[], object]) -> None:
    """Change a bit of a file in the middle, see the command refuse it by its name, and delete it."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ConflictError) as refused:
        command()
    assert repr(str(path)) in refused.value.message and "delete it" in refused.value.remedy
    path.unlink()
