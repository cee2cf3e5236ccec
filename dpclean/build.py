"""Which dpclean this is: its version, and a digest of the files that it runs."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from dpclean import __version__

KINDS = (".py", ".so")
DIGITS = 16  # of the digest


@cache
def build() -> str:
    """The version and what tells its code from other code of the same version."""
    return f"{__version__}+{code_digest(Path(__file__).parent)[:DIGITS]}"


def code_digest(package: Path) -> str:
    """SHA-256, hex, over path and content of each file of a package that is run."""
    whole = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in KINDS and path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
