"""Which dpclean this is: its version, and digests of the files that it runs and of those that were compiled."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from dpclean import __version__

RUN = (".py", ".so")
COMPILED = (".cpp", ".cu", ".h")
DIGITS = 16  # of the digest


@cache
def build() -> str:
    """The version and what tells its code from other code of the same version."""
    return f"{__version__}+{code_digest(Path(__file__).parent)[:DIGITS]}"


def code_digest(folder: Path, kinds: tuple[str, ...] = RUN) -> str:
    """SHA-256, hex, over path and content of each file of these kinds in a folder, a package's or that of sources."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
