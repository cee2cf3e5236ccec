"""3 x 3 convolutions with fewer products against float64 torch, and what their result must not depend on.

By every kernel that this processor runs and that has one; where none has, there is nothing to test but that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpclean import _kernels
from dpclean.denoise.group_norm import TYPES
from dpclean.denoise.loading import find_denoiser, load_network
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.denoise.winograd import Winograd, with_fewer_products
from dpclean.kernels import kernel_names

CPU = torch.device("cpu")
OF_NAME = {name: dtype for dtype, name in TYPES.items()}
KERNELS = {name: OF_NAME[kind] for name in kernel_names() if (kind := _kernels.convolution_type(name))}
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}  # relative to the length of a result
FARTHER = {torch.float32: 3, torch.bfloat16: 2}  # than torch's direct convolution


@pytest.fixture(params=KERNELS or [pytest.param(None, marks=pytest.mark.skip("torch convolves as fast here"))])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Which the kernel in use convolves in."""
    monkeypatch.setenv("DPCLEAN_KERNEL", request.param)
    return KERNELS[request.param]


def convolution(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(inputs + outputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def activations(dtype: torch.dtype, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[1]))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """In float64."""
    bias = None if conv.bias is None else conv.bias.double()
    return torch.conv2d(x.double(), conv.weight.double(), bias, padding=1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((3, 32, 8, 8), 64), ((1, 96, 7, 5), 32), ((2, 256, 16, 12), 128), ((5, 24, 1, 1), 32), ((2, 1000, 4, 6), 32)],
)
@pytest.mark.parametrize("added", [False, True])
def test_agrees_with_torch_in_float64(shape: tuple[int, ...], outputs: int, added: bool, dtype: torch.dtype) -> None:
    conv, x = convolution(shape[1], outputs), activations(dtype, *shape)
    expected, other = convolved(conv, x), None
    if added:
        other = activations(dtype, shape[0], outputs, *shape[2:])
        expected += other.double()
    kept = None if other is None else other.clone()
    found = Winograd(conv, dtype)(x, other)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == x.dtype
    assert (found.double() - expected).norm() <= CLOSE[dtype] * expected.norm()
    assert other is None or torch.equal(other, kept)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3, 64, 8, 8), (2, 32, 5, 3), (1, 128, 1, 1)])
def test_agrees_on_pixels_that_stand_four_times(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    conv, x = convolution(shape[1], 64, bias=False), activations(dtype, *shape)
    expected = convolved(conv, nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    found = Winograd(conv, dtype)(x, upsampled=True)
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= CLOSE[dtype] * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("upsampled", [False, True])
def test_a_sample_is_the_same_in_any_batch_with_any_threads(upsampled: bool, dtype: torch.dtype) -> None:
    conv = Winograd(convolution(64, 32), dtype)
    x = activations(dtype, 40, 64, 9, 14)  # many blocks of tiles, and one in two samples
    whole, before = conv(x, upsampled=upsampled), torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            assert torch.equal(conv(x, upsampled=upsampled), whole)
            assert torch.equal(conv(x[3:4], upsampled=upsampled), whole[3:4])
    finally:
        torch.set_num_threads(before)
    x[::2] = float("nan")
    found = conv(x, upsampled=upsampled)
    assert torch.equal(found[1::2], whole[1::2]) and found[::2].isnan().all()


def test_what_the_kernel_does_not_take_stays_as_it_is(dtype: torch.dtype) -> None:
    others = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1), nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.Conv2d(32, 32, 3), nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), nn.Conv2d(1056, 32, 3, padding=1),
    )  # fmt: skip
    with_fewer_products(others, dtype, CPU)
    assert {type(module) for module in others} == {nn.Conv2d}
    for other in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        nested = nn.Sequential(nn.Sequential(convolution(32, 32)))
        with_fewer_products(nested, other, CPU)
        assert isinstance(nested[0][0], Winograd) == (other == dtype)


def test_other_kernels_and_types_go_through_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = convolution(32, 32).to(dtype)
    x, own = activations(dtype, 2, 32, 6, 6), Winograd(conv, dtype)
    with torch.no_grad():
        assert torch.equal(own.double()(x.double()), conv.double()(x.double()))
        own.to(dtype)
        monkeypatch.setenv("DPCLEAN_KERNEL", "scalar")
        assert torch.equal(own(x), conv(x))


@torch.no_grad()
def test_the_bundled_denoiser_takes_it_and_stays_as_near_to_float64(dtype: torch.dtype) -> None:
    """All its large convolutions, and not much farther from float64 than torch's in the same type are."""
    files, x = find_denoiser("natural"), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    network = FixedLevelNetwork(load_network(files), 200.0, dtype, CPU)
    assert sum(isinstance(module, Winograd) for module in network.modules()) == 36
    found = network(x).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", "scalar")
        plain = FixedLevelNetwork(load_network(files), 200.0, dtype, CPU)(x).double()
        exact = FixedLevelNetwork(load_network(files), 200.0, torch.float64, CPU)(x.double())
    assert (found - exact).norm() <= FARTHER[dtype] * (plain - exact).norm()


@torch.no_grad()
def test_networks_at_several_levels_keep_their_filters_once(dtype: torch.dtype) -> None:
    files, x = find_denoiser("natural"), activations(dtype, 2, 3, 16, 16)
    first = FixedLevelNetwork(load_network(files), 200.0, dtype, CPU)
    beside = FixedLevelNetwork(load_network(files), 100.0, dtype, CPU, first)
    alone = FixedLevelNetwork(load_network(files), 100.0, dtype, CPU)
    filters = [[m.filters.data_ptr() for m in n.modules() if isinstance(m, Winograd)] for n in (first, beside, alone)]
    assert filters[0] == filters[1] and not set(filters[0]) & set(filters[2])
    assert torch.equal(beside(x), alone(x)) and not torch.equal(beside(x), first(x))


@pytest.mark.parametrize("inputs", [64, 24])  # of 24 the kernel has no way back
@pytest.mark.parametrize("upsampled", [False, True])
def test_its_gradient_is_that_of_torch_in_float64(inputs: int, upsampled: bool, dtype: torch.dtype) -> None:
    conv, x = convolution(inputs, 32), activations(dtype, 2, inputs, 6, 5).requires_grad_()
    edges = (12, 10) if upsampled else (6, 5)
    added, weight = activations(dtype, 2, 32, *edges).requires_grad_(), activations(dtype, 2, 32, *edges)
    exact = x.detach().double().requires_grad_()
    stretched = nn.functional.interpolate(exact, scale_factor=2.0, mode="nearest") if upsampled else exact
    (expected,) = torch.autograd.grad((convolved(conv, stretched) * weight).sum(), exact)
    found = Winograd(conv, dtype)(x, added, upsampled=upsampled)
    found, of_added = torch.autograd.grad((found * weight).sum(), (x, added))
    assert found.dtype == x.dtype and torch.equal(of_added, weight)
    assert (found.double() - expected).norm() <= 2 * CLOSE[dtype] * expected.norm()


def test_filters_that_learn_have_their_own_gradient(dtype: torch.dtype) -> None:
    conv = convolution(32, 32).requires_grad_().to(dtype)
    Winograd(conv, dtype)(activations(dtype, 1, 32, 4, 4)).sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.abs().sum() > 0
