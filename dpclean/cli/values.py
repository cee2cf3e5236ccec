"""Option values that need more than a type: noise levels, sizes, configuration files."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from dpclean.errors import UsageError

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


def config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the defaults of a command from the table of its name in a TOML file."""
    if path is None:
        return None
    remedy = "see 'Configuration file' in the README for an example"
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {str(path)!r}: {error.strerror}", "check --config") from error
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is not TOML: {error}", remedy) from error
    table = tables.get(context.info_name or "", {})
    if not isinstance(table, dict):
        raise UsageError(f"{str(path)!r}: {context.info_name!r} is not a table", remedy)
    known: dict[str, Any] = {p.name.replace("_", "-"): p for p in context.command.params if p.name}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known or key == "config":
            raise UsageError(f"{str(path)!r}: {context.info_name} has no option {key!r}", remedy)
        defaults[known[key].name] = _checked(context, path, key, known[key], value)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _checked(context: typer.Context, path: Path, key: str, parameter: Any, value: Any) -> Any:
    # an option's own conversion wants text, as the command line gives it; a switch and a list stay what they are
    text = (
        value if isinstance(value, bool) else [str(item) for item in value] if isinstance(value, list) else str(value)
    )
    try:
        parameter.process_value(context, text)
    except (UsageError, TyperException) as error:
        message = f"{str(path)!r}: {key} = {value!r}: {getattr(error, 'message', error)}"
        raise UsageError(message, "correct the file, or leave the key out") from error
    return text
