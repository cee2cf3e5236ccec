"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpclean.pipeline.results import Progress

PLAIN_SECONDS = 10.0
Show = Callable[["Progress"], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Show | None]:
    """What to call with each step; None where nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _plain()


def _plain() -> Show:
    last = time.monotonic()

    def show(step: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS or step.finished == step.total:
            last = time.monotonic()
            sys.stderr.write(
                f"dpclean: {step.finished}/{step.total} images, {step.images_per_second:.3g} images/s,"
                f" {step.seconds_left:.0f} s left, {step.quarantined} left out\n"
            )

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, said="starting")

        def show(step: Progress) -> None:
            said = f"{step.images_per_second:.3g} images/s, {step.seconds_left:.0f} s left, {step.quarantined} left out"
            bar.update(task, completed=step.finished, total=step.total, said=said)

        yield show
