"""A complete OUT laid out once more, with some of its rows pending: the job that goes on from there does them anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from dpclean.data.manifest import LEDGER_NAME
from dpclean.errors import ConflictError, Reason
from dpclean.jobs.durable import sync_file_system, writing
from dpclean.jobs.staging import Staging
from dpclean.pipeline.ledger import AGAIN, File, Ledger, Listed

# what no other reading mends: the listing decides it, or the noise is used up
FINAL = (Reason.NAME_COLLISION, Reason.OUTSIDE_ROOT, Reason.NOT_REGULAR, Reason.NOT_FINITE)


def begin_again(staging: Staging, rows: Iterable[Listed]) -> None:
    """Fill the empty partial folder with OUT's ledger, in which the rows are pending, and links to all other files.

    Raises SetupError, and ConflictError where a file of OUT is gone.
    """
    path = staging.partial / LEDGER_NAME
    with writing(path):
        shutil.copyfile(staging.out / LEDGER_NAME, path)
    with closing(Ledger(path)) as ledger:
        with ledger.transaction():
            ledger.redo(rows)
            ledger.set(AGAIN, True)
        _link(ledger.files(), staging.out, staging.partial)
    sync_file_system(staging.partial)


def _link(files: Iterable[File], source: Path, to: Path) -> None:
    folders: set[bytes] = set()
    for name, _ in files:
        old, new = (os.path.join(os.fsencode(root), name) for root in (source, to))
        folder = os.path.dirname(new)
        with writing(new):
            if folder not in folders:
                os.makedirs(folder, exist_ok=True)
                folders.add(folder)
            try:
                os.link(old, new, follow_symlinks=False)
            except FileNotFoundError as error:
                raise ConflictError(
                    f"{os.fsdecode(old)!r} is gone", "restore it, or start again with --overwrite"
                ) from error
