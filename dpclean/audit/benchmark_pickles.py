"""The pickles of the poisoning benchmark (Schwarzschild et al. 2021), read without running anything that is in them.

A pickle is a program: it names functions, and loading calls them. Here every name that the format needs stands for a
record of this module that only keeps what it is given, and any other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpclean.errors import InputError, printable
from dpclean.small_files import LIMIT, read_small_file

POISONS_NAME, TARGET_NAME = "poisons.pickle", "target.pickle"
LARGEST, MODES = 1 << 14, {"L": 1, "RGB": 3}  # edge of an image; channels of one
IMAGES = ("Image", "PngImageFile", "JpegImageFile")  # classes of PIL, whose state is the same

NUMBERS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


class Refused(Exception):
    """What is wrong with a pickle, in words that follow its name."""


class _Picture:
    """What a pickled PIL image is made of: (info, mode, size, palette, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8]:
        """[H,W,C]."""
        state = self.state
        if not isinstance(state, (list, tuple)) or len(state) != 5:
            raise Refused("holds an image in another form than PIL's")
        _, mode, size, _, data = state
        if not isinstance(mode, str) or mode not in MODES:
            named = f"mode {mode!r:.20}" if isinstance(mode, str) else "a strange mode"
            raise Refused(f"holds an image of {named}, and {' and '.join(MODES)} are taken")
        if not (isinstance(size, tuple) and len(size) == 2 and all(type(edge) is int for edge in size)):
            raise Refused("holds an image without a size")
        width, height = size
        if not (0 < width <= LARGEST and 0 < height <= LARGEST and isinstance(data, bytes)):
            raise Refused("holds an image of an impossible size")
        if len(data) != width * height * MODES[mode]:
            raise Refused("holds an image with more or fewer bytes than it has pixels")
        return np.frombuffer(data, np.uint8).reshape(height, width, MODES[mode]).copy()


class _Kept:
    """A number of NumPy's, which labels may be: not needed, so only kept."""

    def __init__(self, *given: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Reader(pickle._Unpickler):
    """In Python: the one in C takes as much memory as a pickle names places to remember. What no image needs and takes
    time or memory that the length of a pickle does not bound is refused: sets, and keys of tables that are no text, as
    hashes go through all that is in them, and bytes of a length that is told before they come.
    """

    stack: list[Any]
    load_setitem: Callable[[], None]
    load_setitems: Callable[[], None]

    def refuse(self) -> None:
        raise Refused("has something in it that no image needs")

    def set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        self.load_setitem()

    def set_items(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_setitems()

    def _check_keys(self, keys: list[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            self.refuse()

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((pickle.BYTEARRAY8[0], pickle.EMPTY_SET[0], pickle.FROZENSET[0], pickle.DICT[0]), refuse),
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "PIL" and name in IMAGES:
            return _Picture
        if f"{module}.{name}" in NUMBERS:
            return _Kept
        raise Refused(f"names {printable(f'{module[:60]}.{name[:60]}')!r}, which no image needs; nothing was run")

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("refers to what is outside of it")


def is_there(folder: Path) -> bool:
    """Whether a folder looks like one of the benchmark's."""
    return (folder / POISONS_NAME).is_file()


def read_benchmark(folder: Path) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """(poisons, target), each [H,W,C]. Labels and indices of bases are those of another listing, and not read.

    Raises InputError.
    """
    poisons, target = _loaded(folder / POISONS_NAME), _loaded(folder / TARGET_NAME)
    try:
        if not isinstance(poisons, list) or not poisons:
            raise Refused("is no list of poisons")
        found, whole = list[NDArray[np.uint8]](), 0
        for poison in poisons:
            found.append(_picture_of(poison, 2).pixels())
            whole += found[-1].nbytes
            if whole > LIMIT:  # which no file exceeds: one image stands there many times
                raise Refused("holds more pixels than it has bytes")
    except Refused as error:
        raise _unusable(folder / POISONS_NAME, str(error)) from error
    try:
        return found, _picture_of(target, 2).pixels()
    except Refused as error:
        raise _unusable(folder / TARGET_NAME, str(error)) from error


def _loaded(path: Path) -> Any:
    try:
        return _Reader(io.BytesIO(read_small_file(path))).load()
    except Refused as error:
        raise _unusable(path, str(error)) from error
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise _unusable(path, f"is no pickle: {error or type(error).__name__}") from error


def _picture_of(entry: Any, length: int) -> _Picture:
    if isinstance(entry, tuple) and len(entry) > length:
        raise Refused("has a trigger, and poisons for a single target are taken")
    if not (isinstance(entry, tuple) and len(entry) == length and isinstance(entry[0], _Picture)):
        raise Refused("holds something else than pairs of an image and a label")
    return entry[0]


def _unusable(path: Path, what: str) -> InputError:
    return InputError(
        f"{str(path)!r} {what}", f"give {POISONS_NAME} and {TARGET_NAME} of PIL images, or a folder that 'audit' wrote"
    )
