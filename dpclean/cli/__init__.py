"""The command line: one module a command, imported when it runs; this one reports what went wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

from dpclean.errors import DpcleanError, Interrupted, SetupError, UsageError, printable
from dpclean.jobs.signals import stop_on_signals, was_stopped
from dpclean.threads import wait_passively

# what no program can mend: the disk, its limits and rights
_OF_THE_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENFILE}
_OF_THE_SYSTEM |= {errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EFBIG}
READER_GONE = 141  # what a shell calls a program that ended because nobody reads its output: 128 + SIGPIPE


def main() -> None:
    """Run the command line and leave with the exit code that the documentation promises."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this; the next file opened would take its number
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names from elsewhere must print where the locale has no such letters
            stream.reconfigure(errors="backslashreplace")
    stop_on_signals()
    wait_passively()
    sys.exit(run(sys.argv[1:] or ["--help"]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    asked = {"json": "--json" in arguments}
    try:
        return _run(arguments, asked)
    except KeyboardInterrupt:
        return _refuse(_stopped(), asked["json"])


def _run(arguments: list[str], asked: dict[str, bool]) -> int:
    from typer.exceptions import TyperException

    from dpclean.cli.app import command
    from dpclean.cli.values import is_on

    # a command adds what it finds, before it looks at anything that could be wrong
    asked["json"] |= is_on(os.environ.get("DPCLEAN_JSON"))
    try:
        anything = arguments[0].startswith("-") or "_DPCLEAN_COMPLETE" in os.environ
        tree = command(None if anything else arguments[0])
        code = tree.main(arguments, prog_name="dpclean", standalone_mode=False, obj=asked)
        if code == Interrupted.exit:  # typer has seen the signal first
            return _refuse(_stopped(), asked["json"])
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except DpcleanError as error:
        return _refuse(error, asked["json"])
    except TyperException as error:
        shown = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
        return _refuse(UsageError(_lower(shown), _usage_remedy(error)), asked["json"])
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _discard_output()  # typer saw it first
        return READER_GONE
    except Exception as error:  # the one place where an unforeseen error ends: it becomes exit code 1 and a file
        return _refuse(_unforeseen(error), asked["json"])


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of a command, on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def _stopped() -> DpcleanError:
    return Interrupted("stopped; what was saved stays saved", "the same command goes on")


def _refuse(error: DpcleanError, as_json: bool) -> int:
    if was_stopped():  # whatever a library has made of it
        error = _stopped()
    try:
        if as_json:
            print_json({"error": error.as_dict()})
        else:
            sys.stderr.write(f"dpclean: error: {printable(error.message)}\nhint: {printable(error.remedy)}\n")
        sys.stdout.flush()
    except OSError:  # nobody reads it, or it goes to a full disk: the exit code has to do
        _discard_output()
    return error.exit


def _discard_output() -> None:
    """Let what is still in the buffers go nowhere; Python would fail with it on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _usage_remedy(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"'{context.command_path if context else 'dpclean'} --help' shows what it takes"


def _unforeseen(error: Exception) -> DpcleanError:
    import tempfile
    import traceback

    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        return SetupError(f"the system refused: {error}", "mend that, then give the same command again")
    if isinstance(error, ImportError | MemoryError) or _in_an_import(error):
        from dpclean.doctor import check_libraries

        try:
            check_libraries()
        except SetupError as cause:
            return cause
    if isinstance(error, MemoryError):
        why = f": {error}" if str(error) else ""
        return SetupError(f"there is not enough memory for this{why}", "free some, or lift the limit on it (ulimit -v)")
    said = f"an error of dpclean's own: {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="dpclean-error-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:  # nowhere to write: what helps most to find it
        place = traceback.extract_tb(error.__traceback__)[-1]
        return DpcleanError(said, f"please report it, with {place.filename} line {place.lineno}")
    return DpcleanError(said, f"please report it with the file {file.name}")


def _in_an_import(error: BaseException) -> bool:
    """Whether it came out of a module that was being imported: of a library that does not fit, or lacks something."""
    import traceback

    return any(frame.f_code.co_name == "<module>" for frame, _ in traceback.walk_tb(error.__traceback__))
