"""What a job left out."""

from __future__ import annotations

from pathlib import Path

from dpclean.data.manifest import LEDGER_NAME
from dpclean.errors import InputError
from dpclean.jobs.staging import Staging
from dpclean.pipeline.ledger import Ledger


def list_quarantined(out: Path) -> list[tuple[str, str]]:
    """(name, reason) of every input that is not in OUT, in the order of the listing; also of a job that stopped.

    Names that are not UTF-8 carry their bytes as surrogate escapes. Raises InputError where OUT has no ledger.
    """
    folders = (out, Staging(out).partial)
    path = next((folder / LEDGER_NAME for folder in folders if (folder / LEDGER_NAME).is_file()), None)
    if path is None:
        raise InputError(f"{str(out)!r} has no ledger", "give a folder that 'dpclean sanitize' made")
    ledger = Ledger(path, writable=False)
    try:
        return [(name.decode("utf-8", "surrogateescape"), reason) for name, reason in ledger.quarantined()]
    finally:
        ledger.close()
