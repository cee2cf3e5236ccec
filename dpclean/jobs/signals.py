"""The first signal asks a job to finish what it is at; the second stops it at once. What is ignored stays ignored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = b"dpclean: stopping ... (once more to stop at once)\n"
_stopped = False


def stop_on_signals() -> None:
    """From now on each of the signals raises KeyboardInterrupt in the main thread, as Ctrl-C does."""
    _handle(_stop)


def was_stopped() -> bool:
    """Whether a signal has raised KeyboardInterrupt; a library may have made another error of it, or nothing."""
    return _stopped


@contextmanager
def first_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets, with a word on standard error; the second raises
    KeyboardInterrupt.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        if event.is_set():
            _stop(number, frame)
        event.set()
        try:
            os.write(2, STOPPING)  # no buffer: a handler may run while another write is under way
        except OSError:
            pass  # nobody reads it

    if was_stopped():
        event.set()
    before = _handle(note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    global _stopped
    _stopped = True
    raise KeyboardInterrupt


def _handle(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Install a handler for what is not ignored, as nohup does with SIGHUP; gives back the handlers before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in asked:
        signal.signal(number, handler)
    return asked
