"""Progress on standard error: a bar on a terminal or in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from dpclean.errors import printable

PLAIN_SECONDS = 10.0


class Step(Protocol):
    """How far a job is: finished of total, in units, and the rest in words."""

    @property
    def finished(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def unit(self) -> str: ...

    @property
    def said(self) -> str: ...


Show = Callable[[Step], None]


def said(quiet: bool) -> Callable[[str], None] | None:
    """What to call with a sentence that a user should hear before a long work; None where nothing is to be said."""
    return None if quiet else lambda sentence: print(f"Note: {printable(sentence)}.", file=sys.stderr, flush=True)


@contextmanager
def shown(quiet: bool) -> Iterator[Show | None]:
    """What to call with each step; None where nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty() or _in_notebook():
        with _bar() as show:
            yield show
    else:
        yield _plain()


@contextmanager
def shown_as_asked(progress: Callable[[Any], None] | bool | None) -> Iterator[Callable[[Any], None]]:
    """What a function calls with each step: what its caller gave, a bar for True, nothing for False or None."""
    if callable(progress):
        yield progress
    else:
        with shown(quiet=not progress) as show:
            yield show or (lambda _: None)


def _in_notebook() -> bool:
    """Whether a notebook runs this and can draw a bar."""
    if "ipykernel" not in sys.modules:
        return False
    from importlib.util import find_spec

    return find_spec("ipywidgets") is not None


def _plain() -> Show:
    last, told = time.monotonic(), (-1, "")

    def show(step: Step) -> None:
        nonlocal last, told
        ended = step.finished == step.total != told[0]
        if ended or (time.monotonic() - last >= PLAIN_SECONDS and (step.finished, step.said) != told):
            last, told = time.monotonic(), (step.finished, step.said)
            sys.stderr.write(f"dpclean: {step.finished}/{step.total} {step.unit}, {step.said}\n")

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, said="starting")

        def show(step: Step) -> None:
            bar.update(task, completed=step.finished, total=step.total, said=f"{step.unit}, {step.said}")

        yield show
