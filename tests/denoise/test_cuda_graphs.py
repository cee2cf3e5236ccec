"""Captured kernels do what the network does."""

from __future__ import annotations

import pytest
import torch

from dpclean.denoise.cuda_graphs import Replayed
from dpclean.denoise.loading import find_denoiser, load_network
from dpclean.denoise.network import FixedLevelNetwork

pytestmark = pytest.mark.gpu


def batch(count: int, edge: int, seed: int) -> torch.Tensor:
    noised = torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(seed))
    return noised.to("cuda", torch.bfloat16, memory_format=torch.channels_last)


@torch.inference_mode()
def test_what_is_replayed_is_the_networks_prediction_for_every_shape_in_any_order() -> None:
    device = torch.device("cuda")
    network = FixedLevelNetwork(load_network(find_denoiser("natural")), 150.0, torch.bfloat16, device)
    replayed = Replayed(network, device)
    for number, (count, edge) in enumerate([(16, 32), (4, 64), (16, 32), (1, 128), (4, 64), (16, 32)]):
        noised = batch(count, edge, number)
        torch.testing.assert_close(replayed(noised), network(noised), rtol=0.02, atol=0.02)


@torch.inference_mode()
def test_the_same_input_gives_the_same_bits_whatever_ran_between() -> None:
    device = torch.device("cuda")
    network = FixedLevelNetwork(load_network(find_denoiser("natural")), 150.0, torch.bfloat16, device)
    replayed = Replayed(network, device)
    first = replayed(batch(16, 32, 0)).clone()
    replayed(batch(4, 64, 1))
    replayed(batch(16, 32, 2))
    assert torch.equal(replayed(batch(16, 32, 0)), first)
