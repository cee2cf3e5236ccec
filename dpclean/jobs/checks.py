"""What users give: options by name, numbers in range, paths that can exist. Checked at once, in one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dpclean.errors import UsageError

Options = TypeVar("Options")

# the least and the most that an option of this name takes, in every command that has it
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 1 << 20),
    "classes": (1, 1_000_000),
    "decode_memory": (1, 1 << 50),
    "decode_timeout": (0.001, 1_000_000),
    "draws": (1, 10_000),
    "eps": (1, 255),
    "image_bytes": (0, 10**18),
    "image_values": (1, 10**12),
    "images": (1, 2**32 - 1),
    "learning_rate": (1e-9, 1e38),
    "limit": (1, 10**15),
    "max_pixels": (1, 10**15),
    "minutes": (0.001, 1_000_000),
    "of": (1, 10**15),
    "points": (1, 10**12),
    "poisons": (1, 1_000_000),
    "run_timeout": (0.001, 100_000_000),
    "runs": (1, 1_000_000),
    "sample": (1, 10**15),
    "seconds_per_run": (1e-6, 1_000_000_000),
    "selection_runs": (1, 1_000_000),
    "steps": (1, 10**9),
    "targets": (1, 1_000_000),
    "votes": (1, 1_000_000),
    "warm_epochs": (1, 100_000),
    "workers": (1, 4096),
}
LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes, of Linux


def check_ranges(**values: float | None) -> None:
    """Raises UsageError for the first option that is no number within its range; None stands for the default."""
    for name, value in values.items():
        least, most = RANGES[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            shown = str(value) if len(str(value)) <= 40 else str(value)[:40] + "..."
            raise UsageError(
                f"{name.replace('_', '-')} must be a number from {least:,} to {most:,}, got {shown}",
                "give one in between, or leave it out",
            )


def check_seed(seed: int | None, *, below: int = 1 << 64) -> None:
    """Raises UsageError where that is no seed; None is none."""
    if seed is not None and not 0 <= seed < below:
        raise UsageError(f"seed must be from 0 to {below - 1}, got {seed}", "give a smaller number, or none")


def check_holdout(holdout: float | None, test: object) -> None:
    """Raises UsageError where that is no share of the images to be held out, or there are test images beside it."""
    if holdout is not None and not 0 < holdout < 1:
        raise UsageError(f"holdout is a share between 0 and 1, got {holdout:g}", "0.1 is a common choice")
    if holdout is not None and test is not None:
        raise UsageError("--test and --holdout both name test images", "give one of them")


def given_path(path: str | os.PathLike[str]) -> Path:
    """A path with its ~ replaced. Raises UsageError where there is no such user or no file can have such a name."""
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{str(path)!r} begins with the home of a user who is not known here", "write the folder out"
        ) from error
    name = os.fsencode(found)
    if len(name) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in name.split(b"/")):
        raise UsageError(
            f"a path of {len(name)} bytes, {str(path)[:40]!r}..., is longer than a path or a name in it can be",
            "give a shorter one",
        )
    if b"\0" in name:
        raise UsageError(f"no file can have a name with a NUL in it, as {str(path)[:40]!r} has", "give another one")
    return found


def options_of(kind: type[Options], command: str, given: Mapping[str, object]) -> Options:
    """A dataclass of options from what a caller of the function of that name gave, whatever the type checker saw.

    Text serves for a path, a number for a decimal that is kept as text. Raises UsageError for a name that is no option,
    and for a value of another type.
    """
    hints = get_type_hints(kind)
    for name in given:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            remedy = f"did you mean {close[0]}?" if close else f"its options are {', '.join(hints)}"
            raise UsageError(f"{command} has no option {name!r}", remedy)
    return kind(**{name: _as_hinted(name, hints[name], value) for name, value in given.items()})


def _as_hinted(name: str, hint: Any, value: Any) -> Any:
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    wanted, found = {get_origin(each) or each for each in hints}, type(value)
    if tuple in wanted and found in (tuple, list):  # of any length, of one type
        (inner,) = (get_args(each)[0] for each in hints if get_origin(each) is tuple)
        return tuple(_as_hinted(name, inner, one) for one in value)
    if found in wanted or (found is int and float in wanted):
        return value
    if Path in wanted and isinstance(value, str | os.PathLike):
        return given_path(value)
    if str in wanted and found in (int, float):
        return repr(value)
    if str in wanted and isinstance(value, os.PathLike):
        return os.fspath(value)
    kinds: tuple[tuple[Any, type], ...] = ((str, str), (int, Integral), (float, Real))
    for basic, kin in kinds:  # enumerations, NumPy's numbers
        if basic in wanted and isinstance(value, kin) and found is not bool:
            return basic(value)
    told = " or ".join(sorted("nothing" if each is NoneType else each.__name__ for each in wanted))
    raise UsageError(f"{name} must be {told}, got {value!r:.80}", "give such a value, or leave it out")
