"""A network on a GPU, launched as a whole: a small one's kernels take less time than launching them one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpclean.denoise.network import FixedLevelNetwork


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    taken: Tensor
    given: Tensor


class Replayed:
    """A network whose kernels are captured once for each shape of input, then replayed.

    See PyTorch's notes on CUDA semantics, "CUDA Graphs". A result lies in memory that the next call overwrites,
    whatever its shape: the graphs of a pool need the memory of the largest, not of all. Networks that
    take turns on one stream may share one: torch.cuda.graph_pool_handle().
    """

    def __init__(self, network: FixedLevelNetwork, device: torch.device, pool: Any = None) -> None:
        self._network, self._device = network, device
        self._captured: dict[torch.Size, _Captured] = {}
        self._pool = pool or torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, H, W] on the device, channels_last -> the network's prediction, until the next call."""
        captured = self._captured.get(x.shape)
        if captured is None:
            captured = self._captured[x.shape] = self._capture(x)
        captured.taken.copy_(x)
        captured.graph.replay()
        return captured.given

    def _capture(self, x: Tensor) -> _Captured:
        taken = x.clone()
        with torch.cuda.device(self._device):
            self._network(taken)  # what libraries set up on first use must not be captured
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
                given = self._network(taken)
        return _Captured(graph, taken, given)
