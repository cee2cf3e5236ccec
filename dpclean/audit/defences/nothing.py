"""No defence: what the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dpclean.audit.defences.defence import Defence, Images


class Nothing(Defence):
    name = "none"
    paper = ""
    about = "the images as they are"

    def apply(
        self, images: Images, *, indices: Sequence[int], run: int, on_batch: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        return list(images)
