"""Every refusal: its exit code and its two sentences. Every reason for leaving an input out.

A refusal says in one sentence what was found and in one sentence what to do about it. Commands
print both on standard error (or one JSON object with --json) and leave with the exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum


def printable(text: str) -> str:
    """Text from strangers, names above all, for a terminal or a page.

    What does not print (controls, directions, bytes that are not UTF-8) is written as an escape.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(path: str) -> str:
    """A path as one word of a shell, for a command that is shown and may be copied."""
    if printable(path) == path:
        return shlex.quote(path)
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(escaped)}'"


class DpcleanError(Exception):
    """A refusal: message names the thing, remedy names the way out; both without a full stop."""

    code = "internal"
    exit = 1

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.remedy}"

    def as_dict(self) -> dict[str, object]:
        """The object that --json prints under the key "error"."""
        return {"code": self.code, "exit": self.exit, "message": self.message, "remedy": self.remedy}


def refusal(told: Mapping[str, object]) -> DpcleanError:
    """The error that as_dict described in another process, as its own class. Raises KeyError where that is none."""
    kinds: dict[str, type[DpcleanError]] = {kind.code: kind for kind in DpcleanError.__subclasses__()}
    return kinds[str(told["code"])](str(told["message"]), str(told["remedy"]))


class UsageError(DpcleanError):
    """An option or a value is wrong."""

    code = "usage"
    exit = 2


class InputError(DpcleanError):
    """RAW, a shard, a votes file or a model cannot be used, or too many inputs were bad."""

    code = "input"
    exit = 3


class SetupError(DpcleanError):
    """A denoiser, device, disk space or permission is missing."""

    code = "environment"
    exit = 4


class ConflictError(DpcleanError):
    """OUT exists, is locked, or was begun with other parameters."""

    code = "conflict"
    exit = 5


class DifferenceError(DpcleanError):
    """A check found a difference."""

    code = "difference"
    exit = 6


class Diverged(DpcleanError):
    """A training whose loss or weights are not finite any more."""

    code = "diverged"
    exit = 3


class InternalError(DpcleanError):
    """A check within dpclean failed: a bug of ours that was stopped before it could make anything wrong."""


class Interrupted(DpcleanError):
    """Stopped by a signal after everything that was finished had been committed."""

    code = "interrupted"
    exit = 130


class Reason(StrEnum):
    """Why an input was left out: the closed list of the ledger, the summary and --json."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too-many-pixels"
    TIMEOUT = "timeout"
    DECODER_DIED = "decoder-died"
    FORMAT_NOT_ALLOWED = "format-not-allowed"
    UNSUPPORTED_DEPTH = "unsupported-depth"
    MULTI_FRAME = "multi-frame"
    ALPHA = "alpha"
    COLOUR = "colour"
    NAME_COLLISION = "name-collision"
    OUTSIDE_ROOT = "outside-root"
    NOT_REGULAR = "not-regular"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    BAD_SHARD = "bad-shard"
    NOT_FINITE = "not-finite"


SHOWN_NAMES = 3


def told(reasons: Mapping[str, int], names: Sequence[str] = ()) -> str:
    """Counts by reason in words, the most frequent first, and the first names of what they count."""
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    counts = ", ".join(f"{count} {reason}" for reason, count in ordered)
    return f"{counts}: {shown_names(names)}" if names else counts


def remedy_where_none(reasons: Mapping[str, int], otherwise: str) -> str:
    """What to do where no input can be used, for these reasons."""
    only_colours = reasons.keys() == {Reason.COLOUR}
    return "give --denoiser one that takes 3 channels" if only_colours else otherwise


def shown_names(names: Sequence[str]) -> str:
    """The first of some names, for a sentence."""
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")
