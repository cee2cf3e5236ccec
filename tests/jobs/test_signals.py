"""The first signal lets a job finish what it is at, from any signal that is not ignored; before and after, it stops."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# a suite that was started by nohup or in the background hands on signals that are ignored
HEARD = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""

IGNORING = (
    HEARD
    + """
from dpclean.jobs.signals import first_signal, stop_on_signals, was_stopped
ignored, sent = (int(number) for number in sys.argv[1:])
signal.signal(ignored, signal.SIG_IGN)
stop_on_signals()
with first_signal() as event:
    os.kill(os.getpid(), ignored)
    assert not event.is_set()
    os.kill(os.getpid(), sent)
    assert event.is_set()
os.kill(os.getpid(), ignored)
try:
    os.kill(os.getpid(), sent)
    sys.exit("a signal after the work was lost")
except KeyboardInterrupt:
    assert was_stopped()
with first_signal() as event:
    assert event.is_set(), "what something swallowed is remembered"
"""
)
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("ignored", NUMBERS)
def test_signals_that_are_ignored_stay_ignored_and_the_others_are_heard(ignored: signal.Signals) -> None:
    for sent in NUMBERS:
        if sent != ignored:
            arguments = [sys.executable, "-c", IGNORING, str(ignored.value), str(sent.value)]
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stderr.startswith("dpclean: stopping"), done.stderr


TWICE = (
    HEARD
    + """
from dpclean.jobs.signals import first_signal
with first_signal():
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        print("at once")
"""
)


def test_the_second_signal_stops_at_once() -> None:
    assert subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True).stdout == "at once\n"
