"""The compiled GroupNorm + SiLU against float64 torch, and what its result must not depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dpclean.denoise.group_norm import group_norm_silu
from tests.kernels import KERNELS


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g) * 2 + 3  # [N, C, H, W]
    weight, bias = torch.randn(2, shape[1], generator=g)
    return x.to(dtype).contiguous(memory_format=torch.channels_last), weight, bias


def defined(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> torch.Tensor:
    """GroupNorm by its definition in float64 (torch refuses groups of one value)."""
    grouped = x.double().reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
    y = ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)
    return y * weight.double()[:, None, None] + bias.double()[:, None, None]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.bfloat16, 4.5e-3)])
@settings(max_examples=25)
@given(
    count=st.integers(1, 4), groups=st.integers(1, 4), each=st.integers(1, 13), height=st.integers(1, 12),
    width=st.integers(1, 12), silu=st.booleans(),
)  # fmt: skip
def test_agrees_with_torch_in_float64(
    name: str, dtype: torch.dtype, tolerance: float, count: int, groups: int, each: int, height: int, width: int,
    silu: bool,
) -> None:  # fmt: skip
    x, weight, bias = inputs((count, groups * each, height, width), dtype)
    expected = defined(x, weight, bias, groups, 1e-3)
    if silu:
        expected = F.silu(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", name)
        got = group_norm_silu(x, weight, bias, groups, 1e-3, silu=silu)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    assert ((got.double() - expected).abs() <= tolerance * (expected.abs() + 1)).all()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_is_the_same_in_any_batch_with_any_threads(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPCLEAN_KERNEL", name)
    x, weight, bias = inputs((5, 48, 65, 33), dtype)  # three blocks of pixels each
    whole = group_norm_silu(x, weight, bias, 6, 1e-5)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            assert torch.equal(group_norm_silu(x, weight, bias, 6, 1e-5), whole)
            assert torch.equal(group_norm_silu(x[3:4], weight, bias, 6, 1e-5), whole[3:4])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [16, 50, 300])  # one block of pixels, three, sixty-four
def test_a_large_mean_does_not_cancel_the_variance(size: int) -> None:
    x, weight, bias = inputs((2, 32, size, size), torch.float32)
    expected = defined(x + 1e3, weight, bias, 4, 1e-5)
    assert (group_norm_silu(x + 1e3, weight, bias, 4, 1e-5, silu=False) - expected).abs().max() < 5e-4


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4.5e-3)])
def test_silu_from_end_to_end(name: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPCLEAN_KERNEL", name)
    x = torch.cat([torch.tensor([-3e4, -90.0, 90.0, 3e4]), torch.linspace(-20, 20, 4001)])
    ones, zeros = torch.ones(1, len(x), 1, 1, dtype=dtype), torch.zeros(len(x))  # no weight: SiLU gets the bias
    got = group_norm_silu(ones, zeros, x, len(x), 1e-5).flatten()
    torch.testing.assert_close(got.double(), F.silu(x.double()), rtol=tolerance, atol=1e-30)


def test_a_nan_stays_within_its_sample_and_group() -> None:
    x, weight, bias = inputs((2, 8, 4, 4), torch.bfloat16)
    x[0, 1, 2, 3] = float("nan")
    got = group_norm_silu(x, weight, bias, 2, 1e-5)
    assert got[0, :4].isnan().all() and not got[0, 4:].isnan().any() and not got[1].isnan().any()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.bfloat16, 1e-2)])
@settings(max_examples=25)
@given(
    count=st.integers(1, 4), groups=st.integers(1, 4), each=st.integers(1, 13), height=st.integers(2, 20),
    width=st.integers(1, 12), silu=st.booleans(),
)  # fmt: skip
def test_gradients_agree_with_torch_in_float64(
    name: str, dtype: torch.dtype, tolerance: float, count: int, groups: int, each: int, height: int, width: int,
    silu: bool,
) -> None:  # fmt: skip
    x, weight, bias = (t.requires_grad_() for t in inputs((count, groups * each, height, width), dtype))
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = defined(x, weight, bias, groups, 1e-3)
    expected = torch.autograd.grad(F.silu(exact) if silu else exact, (x, weight, bias), gradient.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", name)
        y = group_norm_silu(x, weight, bias, groups, 1e-3, silu=silu)
        found = torch.autograd.grad(y, (x, weight, bias), gradient)
    for got, wanted in zip(found, expected, strict=True):
        assert (got - wanted).abs().max() <= tolerance * (wanted.abs().max() + 1)


def test_gradients_are_the_same_with_any_threads() -> None:
    x, weight, bias = (t.requires_grad_() for t in inputs((5, 48, 65, 33), torch.bfloat16))
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            y = group_norm_silu(x, weight, bias, 6, 1e-5)
            found.append(torch.autograd.grad(y.float().square().sum(), (x, weight, bias)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
