"""Compression that loses what an eye does not see, and with it some of what an attacker has put there."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpclean.audit.defences.defence import Check, Defence, Pixels, Setting

QUALITY = 75


class Jpeg(Defence):
    name = "jpeg-75"
    paper = "Dziugaite et al. 2016, 'A Study of the Effect of JPG Compression on Adversarial Images'"
    about = f"each image saved as JPEG of quality {QUALITY} and read again"
    changes = True

    @classmethod
    def made(cls, setting: Setting, argument: str) -> Sequence[Defence]:
        return [cls()]

    def apply(
        self, images: Pixels, *, indices: Sequence[int], run: int, check: Check = lambda: None
    ) -> list[NDArray[np.uint8]]:
        found = []
        for image in images:
            check()
            file = io.BytesIO()
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=QUALITY)
            with Image.open(file) as again:
                found.append(np.array(again).reshape(image.shape))
        return found
