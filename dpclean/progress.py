"""Progress on standard error: a bar on a terminal or in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dpclean.errors import printable

PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a long work is: finished of total, in units. seconds_left: at the rate so far, None without one."""

    finished: int
    total: int
    unit: str
    seconds_left: float | None = None
    detail: str = ""  # the rest in words

    @property
    def said(self) -> str:
        """All but the counts, in words."""
        left = "time left not known yet" if self.seconds_left is None else f"{self.seconds_left:.0f} s left"
        return f"{left}, {self.detail}" if self.detail else left


class Pace:
    """The rate of a work since this was made. first: what was finished before."""

    def __init__(self, first: float = 0.0) -> None:
        self.first = first
        self._begun = time.monotonic()

    def rate(self, finished: float) -> float:
        """Units a second."""
        return (finished - self.first) / max(time.monotonic() - self._begun, 1e-9)

    def seconds_left(self, finished: float, total: float) -> float | None:
        """None while nothing is finished."""
        rate = self.rate(finished)
        return (total - finished) / rate if rate > 0 else None


Show = Callable[[Progress], None]


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
def shown_as_asked(progress: Show | bool | None) -> Iterator[Show]:
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

    def show(step: Progress) -> None:
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

        def show(step: Progress) -> None:
            bar.update(task, completed=step.finished, total=step.total, said=f"{step.unit}, {step.said}")

        yield show
