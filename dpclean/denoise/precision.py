"""The type that is computed in. Methods are found without torch, so it is imported where something is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """What is computed in float32 whatever it was given in; float64 stays, as gradients are checked in it."""
    import torch

    return x.to(torch.promote_types(x.dtype, torch.float32))
