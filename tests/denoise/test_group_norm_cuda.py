"""The CUDA GroupNorm + SiLU and the sum after a convolution, against float64 and within the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dpclean.denoise import fused_convolution
from dpclean.denoise.fused_convolution import convolved_onto
from dpclean.denoise.group_norm import group_norm_silu
from dpclean.denoise.loading import find_denoiser, load_network
from dpclean.denoise.network import FixedLevelNetwork

pytestmark = pytest.mark.gpu

DTYPES = [(torch.float32, 3e-5), (torch.bfloat16, 4.5e-3), (torch.float16, 6e-4)]
# natural's layers; odd channels and pixels; too large for shared memory; few groups; one pixel
SHAPES = [
    ((16, 32, 32, 32), 16), ((16, 64, 32, 32), 16), ((16, 96, 32, 32), 16), ((16, 192, 16, 16), 16),
    ((16, 256, 8, 8), 16), ((5, 13, 7, 9), 13), ((5, 30, 35, 1), 3), ((3, 32, 224, 224), 16), ((2, 64, 131, 67), 2),
    ((2, 512, 1, 1), 2), ((1, 2048, 3, 5), 8),
]  # fmt: skip


def on_card(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3
    return x.to("cuda", dtype, memory_format=torch.channels_last)


def vectors(channels: int, count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, channels, generator=torch.Generator().manual_seed(1)).cuda())


def defined(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int) -> torch.Tensor:
    grouped = x.double().reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
    y = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    return y * weight.double()[:, None, None] + bias.double()[:, None, None]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@torch.inference_mode()
def test_agrees_with_float64(shape: tuple[int, ...], groups: int, dtype: torch.dtype, tolerance: float) -> None:
    x = on_card(shape, dtype)
    weight, bias, added = vectors(shape[1], 3)
    added = added.to(dtype)
    for extra, silu in [(None, True), (added, False), (added, True)]:
        value = x.double() if extra is None else x.double() + extra.double()[:, None, None]
        expected = defined(value, weight, bias, groups)
        expected = F.silu(expected) if silu else expected
        got = group_norm_silu(x, weight, bias, groups, 1e-5, silu, extra)
        assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
        assert ((got.double() - expected).abs() <= tolerance * (expected.abs() + 1)).all()


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@torch.inference_mode()
def test_a_sample_is_the_same_in_any_batch_and_any_time(shape: tuple[int, ...], groups: int) -> None:
    x, (weight, bias) = on_card(shape, torch.bfloat16), vectors(shape[1], 2)
    whole = group_norm_silu(x, weight, bias, groups, 1e-5)
    for _ in range(3):
        assert torch.equal(group_norm_silu(x, weight, bias, groups, 1e-5), whole)
    last = x[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(group_norm_silu(last, weight, bias, groups, 1e-5), whole[-1:])


@pytest.mark.parametrize("size", [16, 50, 300])
@torch.inference_mode()
def test_a_large_mean_does_not_cancel_the_variance(size: int) -> None:
    x, (weight, bias) = on_card((2, 32, size, size), torch.float32) + 1e3, vectors(32, 2)
    got = group_norm_silu(x, weight, bias, 4, 1e-5, silu=False)
    assert (got - defined(x, weight, bias, 4)).abs().max() < 5e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4.5e-3)])
@torch.inference_mode()
def test_silu_from_end_to_end(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.cat([torch.tensor([-3e4, -90.0, 90.0, 3e4]), torch.linspace(-20, 20, 4001)]).cuda()
    got = group_norm_silu(x.new_ones(1, len(x), 1, 1).to(dtype), torch.zeros_like(x), x, len(x), 1e-5).flatten()
    torch.testing.assert_close(got.double(), F.silu(x.double()), rtol=tolerance, atol=1e-30)


@torch.inference_mode()
def test_a_nan_stays_within_its_sample_and_group() -> None:
    x, (weight, bias) = on_card((2, 32, 16, 16), torch.bfloat16), vectors(32, 2)
    x[0, 1, 2, 3] = float("nan")
    got = group_norm_silu(x, weight, bias, 2, 1e-5)
    assert got[0, :16].isnan().all() and not got[0, 16:].isnan().any() and not got[1].isnan().any()


def test_gradients_still_come() -> None:
    x, (weight, bias) = on_card((2, 32, 8, 8), torch.float32).requires_grad_(), vectors(32, 2)
    group_norm_silu(x, weight.requires_grad_(), bias, 4, 1e-5).sum().backward()
    assert x.grad is not None and weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("channels", [5, 32, 64])
@torch.inference_mode()
def test_a_convolution_onto_another_with_both_biases(dtype: torch.dtype, tolerance: float, channels: int) -> None:
    conv = nn.Conv2d(channels, channels, 3, padding=1).to("cuda", dtype, memory_format=torch.channels_last)
    x, other = on_card((3, channels, 9, 7), dtype), on_card((3, channels, 9, 7), dtype, 1)
    (left,) = vectors(channels, 1)
    got = convolved_onto(conv, x, other, left.to(dtype))
    alone = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    expected = alone + other.double() + left.to(dtype).double()[:, None, None]
    tolerance = max(tolerance, 1e-3)  # TF32 may be allowed in the convolution
    assert ((got.double() - expected).abs() <= tolerance * (expected.abs() + 20)).all()


@torch.inference_mode()
def test_the_network_with_and_without_the_fused_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FixedLevelNetwork(load_network(find_denoiser("natural")), 150.0, torch.float32, torch.device("cuda"))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)).cuda()
    x = x.contiguous(memory_format=torch.channels_last)
    fused = network(x)
    never: Callable[[torch.Tensor], bool] = lambda _: False  # noqa: E731
    monkeypatch.setattr(fused_convolution, "fuses_bias", never)
    monkeypatch.setattr("dpclean.denoise.network.fuses_bias", never)
    monkeypatch.setattr("dpclean.denoise.group_norm.takes_on_cuda", lambda *_: False)
    torch.testing.assert_close(fused, network(x), rtol=5e-3, atol=5e-3)
