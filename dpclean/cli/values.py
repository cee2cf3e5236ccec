"""Option values that need more than a type: noise levels, sizes, configuration files."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from dpclean.errors import UsageError
from dpclean.small_files import read_small_file

_SIZES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def sigma(text: str) -> float:
    """A noise level on the [0, 1] pixel scale; a refusal guesses what was meant."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value <= 4:
        return value
    meant = _guess(text, value)
    raise UsageError(
        f"sigma must be a number from 0 to 4 on the [0, 1] pixel scale, got {text!r}",
        f"did you mean {meant:g}?" if meant is not None else "0.25 is a common choice; 0 adds no noise",
    )


def _guess(text: str, value: float) -> float | None:
    """What a refused noise level may have meant: a decimal comma, a percentage, grey levels, a stray sign."""
    if 4 < value <= 255:
        return round(value / 255, 4)
    if -4 <= value < 0:
        return -value
    try:
        if text.endswith("%"):
            return float(text[:-1].replace(",", ".")) / 100
        return float(text.replace(",", ".")) if "," in text else None
    except ValueError:
        return None


def size(text: str) -> int:
    """A count with an optional suffix k, M or G."""
    number, suffix = (text[:-1], text[-1].lower()) if text[-1:].lower() in ("k", "m", "g") else (text, "")
    try:
        return int(float(number) * _SIZES[suffix])
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a size", "give a number such as 500000, 500k or 100M") from error


def is_on(value: object) -> bool:
    """Whether a switch is on, as the command line, a variable or a file gives it."""
    return value is True or str(value).lower() in ("1", "true", "t", "yes", "y", "on")


def completing(*choices: str) -> Callable[[], list[str]]:
    """What a shell offers as the value of an option."""
    return lambda: list(choices)


def read_config(context: typer.Context, path: Path, words: list[str]) -> None:
    """Take the defaults of a command, named by its words, from the table of its name in a TOML file.

    Raises UsageError that names the file and what in it is wrong.
    """
    remedy = "see 'Configuration file' in the README for an example"
    try:
        table: Any = tomllib.loads(read_small_file(path).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {str(path)!r}: {error.strerror}", "check --config") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not TOML: {error}", remedy) from error
    for word in words:
        table = table.get(word, {})
        if not isinstance(table, dict):
            raise UsageError(f"{str(path)!r}: {word!r} is not a table", remedy)
    known: dict[str, Any] = {p.name.replace("_", "-"): p for p in context.command.params if p.name}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known or key == "config":
            raise UsageError(f"{str(path)!r}: {' '.join(words)} has no option {key!r}", remedy)
        defaults[known[key].name] = _checked(context, path, key, known[key], value)
    context.default_map = {**(context.default_map or {}), **defaults}


def _checked(context: typer.Context, path: Path, key: str, parameter: Any, value: Any) -> Any:
    """A value of the file as the command line would give it: text; a switch and a list stay what they are."""
    given = f"{str(path)!r}: {key} = {str(value)[:80] if isinstance(value, dict) else repr(value)[:80]}"
    switch, several = (
        getattr(parameter, "is_flag", False),
        getattr(parameter, "multiple", False) or parameter.nargs != 1,
    )
    if switch != isinstance(value, bool):
        wanted = "a switch, true or false" if switch else "no switch"
        raise UsageError(f"{given}, but {key} is {wanted}", "correct the file, or leave the key out")
    items = value if several and isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise UsageError(
            f"{given}, but {key} takes {'text or numbers' if several else 'one text or number'}",
            "correct the file, or leave the key out",
        )
    text = value if switch else [str(item) for item in items] if several else str(value)
    try:
        parameter.process_value(context, text)
    except (UsageError, TyperException) as error:
        raise UsageError(
            f"{given}: {getattr(error, 'message', error)}", "correct the file, or leave the key out"
        ) from error
    return text
