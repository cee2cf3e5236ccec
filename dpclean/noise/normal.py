"""Standard normal noise of whole images, of which any window can be drawn alone."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike

from dpclean.noise.fused import to_model_input
from dpclean.noise.keys import subkey
from dpclean.noise.table import SIGMA_MAX

CELL = 64  # edge of what is drawn at once, in pixels


def standard_normal(
    shape: tuple[int, int, int],
    corner: tuple[int, int],
    edges: tuple[int, int],
    *,
    device: torch.device,
    key: bytes,
    purpose: str,
    run: int,
    indices: ArrayLike,
    test: bool,
) -> torch.Tensor:
    """float32 [N, C, h, w]: of images [H, W, C] = shape the window of edges (h, w) whose top left is corner.

    On a grid of 1 / (255 SIGMA_MAX): in each cell of the image the noise of `add_noise` at the largest sigma, in its
    unit, under a key of the cell's own, "PURPOSE/ROW/COLUMN". So windows agree where they overlap.
    """
    (height, width, channels), (top, left) = shape, corner
    bottom, right = top + edges[0], left + edges[1]
    count = len(torch.as_tensor(indices))
    out = torch.empty((count, channels, *edges), device=device)
    for y in range(top // CELL * CELL, bottom, CELL):
        for x in range(left // CELL * CELL, right, CELL):
            cell = (count, min(CELL, height - y), min(CELL, width - x), channels)
            scaled = to_model_input(
                torch.zeros(cell, dtype=torch.uint8, device=device), SIGMA_MAX, 1.0,
                key=subkey(key, f"{purpose}/{y // CELL}/{x // CELL}"), run=run, indices=indices, test=test,
                dtype=torch.float32,
            )  # 2 Z / 255 - 1  # fmt: skip
            rows, columns = slice(max(y, top), min(y + CELL, bottom)), slice(max(x, left), min(x + CELL, right))
            part = scaled[:, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            out[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
    return out.add_(1).div_(2 * SIGMA_MAX)
