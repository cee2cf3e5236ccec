"""The command line: one module a command, imported when it runs; this one reports what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from dpclean.errors import DpcleanError, Interrupted, UsageError, printable


def main() -> None:
    """Run the command line and leave with the exit code that the documentation promises."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    from typer.exceptions import TyperException

    from dpclean.cli.app import command

    try:
        own_options = not arguments or arguments[0].startswith("-") or "_DPCLEAN_COMPLETE" in os.environ
        code = command(own_options).main(arguments, prog_name="dpclean", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except DpcleanError as error:
        return _refuse(error, arguments)
    except TyperException as error:
        shown = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
        return _refuse(UsageError(_lower(shown), _usage_remedy(error)), arguments)
    except KeyboardInterrupt:
        return _refuse(Interrupted("stopped; what was saved stays saved", "the same command goes on"), arguments)
    except BrokenPipeError:
        # whoever read standard output has gone; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the one place where an unforeseen error ends: it becomes exit code 1 and a file
        return _refuse(_unforeseen(error), arguments)


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of a command, on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def _refuse(error: DpcleanError, arguments: list[str]) -> int:
    with contextlib.suppress(BrokenPipeError):
        if "--json" in arguments or os.environ.get("DPCLEAN_JSON", "").lower() in ("1", "true", "yes"):
            print_json({"error": error.as_dict()})
            sys.stdout.flush()
        else:
            sys.stderr.write(f"dpclean: error: {printable(error.message)}\nhint: {printable(error.remedy)}\n")
    return error.exit


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _usage_remedy(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"'{context.command_path if context else 'dpclean'} --help' shows what it takes"


def _unforeseen(error: Exception) -> DpcleanError:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="dpclean-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return DpcleanError(
        f"an error of dpclean's own: {type(error).__name__}: {error}", f"please report it with the file {file.name}"
    )
