"""From the prediction to uint8: against the same operations in plain torch, for every type, layout and network."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpclean.errors import UsageError
from dpclean.noise import to_uint8
from tests.kernels import KERNELS

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PAIRS = [*((t, t) for t in DTYPES), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16)]
FORMATS = (torch.contiguous_format, torch.channels_last)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
ABAR = 0.37


def plain(x: torch.Tensor, e: torch.Tensor, kind: str) -> torch.Tensor:
    """noise.md's formulas, one float32 tensor operation each."""
    root, rest = math.sqrt(ABAR), math.sqrt(1.0 - ABAR)
    p, q = {
        "epsilon": (127.5 / root, -127.5 * rest / root),
        "v_prediction": (127.5 * root, -127.5 * rest),
        "sample": (0.0, 127.5),
    }[kind]
    p, q = torch.tensor(np.float32(p)), torch.tensor(np.float32(q))
    x, e = x.float(), e.float()
    if x.shape[1] == 1 and e.shape[1] >= 3:
        e = ((e[:, :1] + e[:, 1:2]) + e[:, 2:3]) / 3
    e = e[:, : x.shape[1]]
    y = (q * e if kind == "sample" else p * x + q * e) + 127.5
    y = torch.where(y > 0, y, 0.0)
    y = torch.where(y < 255, y, 255.0)
    return y.round().to(torch.uint8).permute(0, 2, 3, 1)


def tensors(shape: tuple[int, ...], extra: int, types: tuple[torch.dtype, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    n, c, h, w = shape
    x = torch.randn(n, c, h, w, generator=g) * 0.7
    return x.to(types[0]), torch.randn(n, c + extra, h, w, generator=g).to(types[1])


@pytest.mark.parametrize("name", KERNELS)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
    extra=st.sampled_from([0, 2, 3]),
    types=st.sampled_from(PAIRS),
    formats=st.sampled_from(list(itertools.product(FORMATS, FORMATS))),
    kind=st.sampled_from(PREDICTIONS),
)
def test_equals_plain_torch(
    name: str,
    shape: tuple[int, int, int, int],
    extra: int,
    types: tuple[torch.dtype, ...],
    formats: tuple[torch.memory_format, ...],
    kind: str,
) -> None:
    x, e = tensors(shape, extra, types)
    expected = plain(x, e, kind)
    x, e = x.contiguous(memory_format=formats[0]), e.contiguous(memory_format=formats[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", name)
        pixels, finite = to_uint8(x, e, ABAR, prediction_type=kind)
    assert torch.equal(pixels, expected) and finite.all() and finite.dtype == torch.bool


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_not_finite(bad: float, dtype: torch.dtype, layout: torch.memory_format, kernel: str) -> None:
    """NaN becomes 0, infinities the end of the range; only the image that has one is told."""
    for position in (0, 517, 3 * 23 * 19 - 1):  # in a whole vector, within one, in the last, partial one
        x, e = tensors((4, 3, 23, 19), 0, (dtype, dtype))
        e[2].view(-1)[position] = bad
        expected = plain(x, e, "epsilon")
        x, e = x.contiguous(memory_format=layout), e.contiguous(memory_format=layout)
        pixels, finite = to_uint8(x, e, ABAR, prediction_type="epsilon")
        assert finite.tolist() == [True, True, False, True]
        assert torch.equal(pixels, expected)
        changed = pixels[2].permute(2, 0, 1).reshape(-1)[position]
        assert changed == (255 if bad == -math.inf else 0)  # q is negative


def test_a_channel_that_is_not_read_may_hold_anything(kernel: str) -> None:
    x, e = tensors((2, 3, 9, 11), 3, (torch.bfloat16, torch.bfloat16))
    e[:, 3:] = math.nan
    for layout in FORMATS:
        pixels, finite = to_uint8(x, e.contiguous(memory_format=layout), ABAR, prediction_type="epsilon")
        assert finite.all() and torch.equal(pixels, plain(x, e, "epsilon"))


def test_sample_prediction_does_not_read_the_input(kernel: str) -> None:
    x, e = tensors((2, 3, 16, 16), 0, (torch.bfloat16, torch.bfloat16))
    pixels, finite = to_uint8(torch.full_like(x, math.nan), e, ABAR, prediction_type="sample")
    assert finite.all() and torch.equal(pixels, plain(x, e, "sample"))


def test_ties_round_to_even_and_the_ends_clamp(kernel: str) -> None:
    levels = torch.tensor([-3.0, -0.5, 0.0, 0.5, 1.5, 2.5, 126.5, 127.5, 253.5, 254.5, 255.0, 256.0, 1e30, -1e30])
    e = ((levels.double() - 127.5) / 127.5).float().view(1, 1, 1, -1).repeat(1, 1, 5, 1)
    pixels, _ = to_uint8(e, e, ABAR, prediction_type="sample")
    assert torch.equal(pixels, plain(e, e, "sample"))
    assert pixels[0, 0, -2:, 0].tolist() == [255, 0]


def test_out_is_filled_and_given_back() -> None:
    x, e = tensors((2, 3, 8, 8), 0, (torch.bfloat16, torch.bfloat16))
    out = torch.empty(2, 8, 8, 3, dtype=torch.uint8)
    assert to_uint8(x, e, ABAR, prediction_type="epsilon", out=out)[0] is out
    assert torch.equal(out, plain(x, e, "epsilon"))


@pytest.mark.parametrize(
    ("x", "e", "kind", "abar"),
    [
        ((2, 3, 8, 8), (2, 1, 8, 8), "epsilon", 0.5),
        ((2, 1, 8, 8), (2, 2, 8, 8), "epsilon", 0.5),
        ((2, 3, 8, 8), (1, 3, 8, 8), "epsilon", 0.5),
        ((2, 3, 8, 8), (2, 3, 8, 9), "epsilon", 0.5),
        ((2, 4, 8, 8), (2, 4, 8, 8), "epsilon", 0.5),
        ((2, 3, 8, 8), (2, 3, 8, 8), "score", 0.5),
        ((2, 3, 8, 8), (2, 3, 8, 8), "epsilon", 0.0),
        ((2, 3, 8, 8), (2, 3, 8, 8), "epsilon", math.nan),
    ],
)
def test_what_does_not_fit_is_refused(x: tuple[int, ...], e: tuple[int, ...], kind: str, abar: float) -> None:
    with pytest.raises(UsageError):
        to_uint8(torch.zeros(x), torch.zeros(e), abar, prediction_type=kind)
