"""Triggers: what an attacker puts on any image that a poisoned model is to take for his class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Trigger(ABC):
    array: NDArray[Any]  # what is put on, for a file that others can load

    @abstractmethod
    def on(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of an image [H,W,C] with the trigger on it."""

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """How the array is put on, ready for JSON."""


@dataclass(frozen=True, eq=False)
class Patch(Trigger):
    """Pixels uint8 [h,w,3] over those of an image, so far away from its lower right corner, or from all four."""

    array: NDArray[np.uint8]
    margin: int = 0
    everywhere: bool = False

    def on(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = image.copy()
        height, width = (min(edge, room) for edge, room in zip(self.array.shape, image.shape[:2], strict=False))
        patch = self.array[:height, :width, : image.shape[2]]
        near, far_row, far_column = self.margin, image.shape[0] - height, image.shape[1] - width
        rows, columns = ({near, far - near} if self.everywhere else {far - near} for far in (far_row, far_column))
        for row in rows:
            for column in columns:
                top, left = max(row, 0), max(column, 0)
                found[top : top + height, left : left + width] = patch
        return found

    def told(self) -> dict[str, Any]:
        return {"kind": "patch", "margin": self.margin, "everywhere": self.everywhere}


@dataclass(frozen=True, eq=False)
class Pattern(Trigger):
    """A change int16 [H,W,C] of all pixel values, in grey levels, for images of that very shape."""

    array: NDArray[np.int16]

    def on(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return (image + self.array).clip(0, 255).astype(np.uint8)

    def told(self) -> dict[str, Any]:
        return {"kind": "pattern"}


def chequered(edge: int) -> NDArray[np.uint8]:
    """Black and white pixels in turn, uint8 [edge,edge,3]."""
    white = np.add.outer(np.arange(edge), np.arange(edge)) % 2 == 0
    return np.where(white, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
