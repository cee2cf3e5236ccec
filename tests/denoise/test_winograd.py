"""3 x 3 convolutions with fewer products against float64 torch, and what their result must not depend on.

Where the processor has no such kernel, torch convolves, and there is nothing to test but that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpclean.denoise.loading import find_denoiser, load_network
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.denoise.winograd import Winograd, with_fewer_products
from dpclean.kernels import convolves

CPU = torch.device("cpu")
here = pytest.mark.skipif(not convolves(), reason="torch convolves as fast on this processor")


def convolution(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(inputs + outputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def activations(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[1]))
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """In float64."""
    bias = None if conv.bias is None else conv.bias.double()
    return torch.conv2d(x.double(), conv.weight.double(), bias, padding=1)


@here
@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((3, 32, 8, 8), 64), ((1, 96, 7, 5), 32), ((2, 256, 16, 12), 128), ((5, 24, 1, 1), 32), ((2, 1000, 4, 6), 32)],
)
@pytest.mark.parametrize("added", [False, True])
def test_agrees_with_torch_in_float64(shape: tuple[int, ...], outputs: int, added: bool) -> None:
    conv, x = convolution(shape[1], outputs), activations(*shape)
    expected, other = convolved(conv, x), None
    if added:
        other = activations(shape[0], outputs, *shape[2:])
        expected += other.double()
    kept = None if other is None else other.clone()
    found = Winograd(conv)(x, other)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == x.dtype
    assert (found.double() - expected).norm() <= 8e-3 * expected.norm()
    assert other is None or torch.equal(other, kept)  # type: ignore[arg-type]


@here
@torch.no_grad()
@pytest.mark.parametrize("shape", [(3, 64, 8, 8), (2, 32, 5, 3), (1, 128, 1, 1)])
def test_agrees_on_pixels_that_stand_four_times(shape: tuple[int, ...]) -> None:
    conv, x = convolution(shape[1], 64, bias=False), activations(*shape)
    expected = convolved(conv, nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    found = Winograd(conv)(x, upsampled=True)
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= 8e-3 * expected.norm()


@here
@torch.no_grad()
@pytest.mark.parametrize("upsampled", [False, True])
def test_a_sample_is_the_same_in_any_batch_with_any_threads(upsampled: bool) -> None:
    conv, x = Winograd(convolution(64, 32)), activations(40, 64, 9, 14)  # many blocks of tiles, and one in two samples
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


def test_what_the_kernel_does_not_take_stays_as_it_is() -> None:
    others = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1), nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.Conv2d(32, 32, 3), nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), nn.Conv2d(1056, 32, 3, padding=1),
    )  # fmt: skip
    with_fewer_products(others, torch.bfloat16, CPU)
    assert {type(module) for module in others} == {nn.Conv2d}
    for dtype, replaced in ((torch.float32, False), (torch.bfloat16, convolves())):
        nested = nn.Sequential(nn.Sequential(convolution(32, 32)))
        with_fewer_products(nested, dtype, CPU)
        assert isinstance(nested[0][0], Winograd) == replaced


def test_gradients_and_other_kernels_go_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = convolution(32, 32).bfloat16()
    x = activations(2, 32, 6, 6)
    own = Winograd(conv)
    leaf = x.clone().requires_grad_()
    own(leaf, x, upsampled=False).float().sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0
    monkeypatch.setenv("DPCLEAN_KERNEL", "scalar")
    with torch.no_grad():
        assert torch.equal(own(x), conv(x))


@here
@torch.no_grad()
def test_the_bundled_denoiser_takes_it_and_stays_as_near_to_float32() -> None:
    """All its large convolutions, and no farther from float32 than twice what torch's in bfloat16 are."""
    files, x = find_denoiser("natural"), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", "scalar")
        plain = FixedLevelNetwork(load_network(files), 200.0, torch.bfloat16, CPU)(x).float()
        exact = FixedLevelNetwork(load_network(files), 200.0, torch.float32, CPU)(x.float())
    network = FixedLevelNetwork(load_network(files), 200.0, torch.bfloat16, CPU)
    assert sum(isinstance(module, Winograd) for module in network.modules()) == 36
    assert (network(x).float() - exact).norm() <= 2 * (plain - exact).norm()


@here
@torch.no_grad()
def test_networks_at_several_levels_keep_their_filters_once() -> None:
    files, x = find_denoiser("natural"), activations(2, 3, 16, 16)
    first = FixedLevelNetwork(load_network(files), 200.0, torch.bfloat16, CPU)
    beside = FixedLevelNetwork(load_network(files), 100.0, torch.bfloat16, CPU, first)
    alone = FixedLevelNetwork(load_network(files), 100.0, torch.bfloat16, CPU)
    filters = [[m.filters.data_ptr() for m in n.modules() if isinstance(m, Winograd)] for n in (first, beside, alone)]
    assert filters[0] == filters[1] and not set(filters[0]) & set(filters[2])
    assert torch.equal(beside(x), alone(x)) and not torch.equal(beside(x), first(x))


@here
@pytest.mark.parametrize("inputs", [64, 24])  # of 24 the kernel has no way back
@pytest.mark.parametrize("upsampled", [False, True])
def test_its_gradient_is_that_of_torch_in_float64(inputs: int, upsampled: bool) -> None:
    conv, x = convolution(inputs, 32), activations(2, inputs, 6, 5).requires_grad_()
    edges = (12, 10) if upsampled else (6, 5)
    added, weight = activations(2, 32, *edges).requires_grad_(), activations(2, 32, *edges)
    exact = x.detach().double().requires_grad_()
    stretched = nn.functional.interpolate(exact, scale_factor=2.0, mode="nearest") if upsampled else exact
    (expected,) = torch.autograd.grad((convolved(conv, stretched) * weight).sum(), exact)
    found, of_added = torch.autograd.grad((Winograd(conv)(x, added, upsampled=upsampled) * weight).sum(), (x, added))
    assert found.dtype == x.dtype and torch.equal(of_added, weight)
    assert (found.double() - expected).norm() <= 1e-2 * expected.norm()


@here
def test_filters_that_learn_have_their_own_gradient() -> None:
    conv = convolution(32, 32).requires_grad_().bfloat16()
    Winograd(conv)(activations(1, 32, 4, 4)).sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.abs().sum() > 0
