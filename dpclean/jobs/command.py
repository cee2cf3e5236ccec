"""Commands of users: programs of theirs that a job starts, without a shell, with paths put in their places."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dpclean.errors import ConflictError, UsageError, printable
from dpclean.jobs.child_process import mortal_group

SHELL, LAST_SIGNAL = 128, 64  # a shell leaves with 128 + N for a program that was ended by signal N
LAST_BYTES, LONGEST_LINE = 1 << 16, 500  # of what a program said are looked at; letters of its last line are told
PAUSE = 0.2  # seconds between two looks at whether to stop


class CommandFailed(Exception):
    """A command that did not do its work. what: in words that follow the program's role in a sentence.

    cut_off: by its time or by a signal, or never begun, in which what else the machine did has a part.
    """

    def __init__(self, what: str, remedy: str, *, cut_off: bool = False) -> None:
        super().__init__(what)
        self.what, self.remedy, self.cut_off = what, remedy, cut_off


@dataclass(frozen=True)
class Command:
    """A program and its arguments, as one text, in which each {name} of a place becomes a path. option: it came by."""

    text: str
    option: str

    def check(self, *places: str) -> None:
        """Raises UsageError where it is no command, or one of the places is not in it."""
        try:
            found = self.arguments
        except ValueError as error:
            raise UsageError(
                f"{self.option} is no command: {str(error).lower()} in {self.text!r}", "close the quotes"
            ) from error
        missing = [place for place in places if f"{{{place}}}" not in self.text]
        if missing or not found:
            raise UsageError(
                f"{self.option} is a command with {' and '.join(f'{{{place}}}' for place in places)} in it,"
                f" got {self.text!r}",
                "they become folders",
            )

    @cached_property
    def arguments(self) -> list[str]:
        """As a shell would split it, which is not asked: nothing in it is expanded."""
        return shlex.split(self.text)

    def spelled(self) -> str:
        """The same for each text that is the same command."""
        return shlex.join(self.arguments)

    def files(self) -> dict[str, str]:
        """SHA-256, hex, of the program and of each other file that it names, by argument (`--option=FILE` too)."""
        files = {}
        for place, argument in enumerate(self.arguments):
            found = shutil.which(argument) if place == 0 else None
            for name in (found or argument, argument.partition("=")[2]):
                if name and os.path.isfile(name):
                    with open(name, "rb") as file:
                        files[argument] = hashlib.file_digest(file, "sha256").hexdigest()
                    break
        return files

    def check_files(self, begun: Mapping[str, str], role: str) -> None:
        """Raises ConflictError where these are not the files that a job was begun with."""
        found = self.files()
        if changed := sorted(name for name in {**begun, **found} if begun.get(name) != found.get(name)):
            raise ConflictError(
                f"the {role} is not the program that the job was begun with: {printable(changed[0])!r} has changed",
                "restore it, or start again with --overwrite: runs must be alike",
            )

    def call(
        self,
        places: Mapping[str, Path],
        log: Path,
        *,
        timeout: float | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Run it to its end, what it says going into a file. check: is called now and then, and raises to end it.

        Raises CommandFailed. Nothing that it started outlives this call.
        """
        arguments = [_filled(argument, places) for argument in self.arguments]
        with log.open("wb") as said, mortal_group() as group:
            try:
                process = subprocess.Popen(
                    arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=group
                )
            except OSError as error:
                raise CommandFailed(
                    f"does not start: {arguments[0]!r}: {error.strerror}", f"check {self.option}", cut_off=True
                ) from error
            try:
                code = _ended(process, timeout, check)
            finally:
                process.kill()
                process.wait()
        if code is None:
            raise CommandFailed(f"took more than {timeout:g} s", "raise --run-timeout, or mend it", cut_off=True)
        if signal := _signal_of(code):
            raise CommandFailed(f"was ended by signal {signal}", "free some memory, or mend it", cut_off=True)
        if code != 0:
            raise CommandFailed(f"left with exit code {code}: {_last_line(log)}", "mend it")


def _ended(process: subprocess.Popen[bytes], timeout: float | None, check: Callable[[], None]) -> int | None:
    """With which code; None where the time was over before."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = PAUSE if deadline is None else min(PAUSE, deadline - time.monotonic())
        try:
            return process.wait(max(0, left))
        except subprocess.TimeoutExpired:
            if deadline is not None and time.monotonic() >= deadline:
                return None
        check()


def _last_line(log: Path) -> str:
    """What a program said last, in so many letters at most."""
    with log.open("rb") as said:
        said.seek(max(0, os.path.getsize(log) - LAST_BYTES))
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:LONGEST_LINE] if lines else "it said nothing"


def _signal_of(code: int) -> int:
    """The signal that ended a program, or the one that a shell around it tells of; 0 for none."""
    number = -code if code < 0 else code - SHELL
    return number if 0 < number <= LAST_SIGNAL else 0


def _filled(argument: str, places: Mapping[str, Path]) -> str:
    for name, place in places.items():
        argument = argument.replace(f"{{{name}}}", str(place))
    return argument
