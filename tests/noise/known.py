"""The known answers, and the known images that they are about."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text())
KEY = bytes(range(32))


def known_image(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """x[i] = (37 i + 11 number) mod 256 in memory order: the input of every known answer."""
    i = np.arange(math.prod(shape), dtype=np.int64)
    return ((i * 37 + number * 11) % 256).astype(np.uint8).reshape(shape)


def sha256(array: np.ndarray) -> str:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def address(answer: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that say which noise an answer is about."""
    return {
        "key": bytes.fromhex(answer["key"]),
        "run": answer["run"],
        "indices": [answer["index"]],
        "test": answer["test"],
    }
