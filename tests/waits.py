"""Where a GPU would be waited for, found without one: what makes the host look at what was computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
LOOKS = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.masked_select, aten.nonzero, aten.repeat_interleave,
    aten._unique2, aten.unique_dim, aten.unique_consecutive,
}  # fmt: skip
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # a mask is made places of


class Waits(TorchDispatchMode):
    """Inside it, `found` gathers the operators whose result, or its size, the host takes from the device's memory.

    A copy to the host is none of them where all is on the host; `test_waits.py` forbids it on a card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        masks = packet in INDEXES and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if packet in LOOKS or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
