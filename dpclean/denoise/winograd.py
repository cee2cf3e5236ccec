"""3 x 3 convolutions with fewer products, on processors whose vectors multiply, and no units for matrices.

Winograd's minimal filtering (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks"), which torch's
library does not do there:

- bfloat16, F(2 x 2, 3 x 3): 16 products for 2 x 2 results in place of 36, and 9 where each pixel of the input stands
  four times; V and U are rounded to bfloat16, sums are float32 (csrc/convolution_avx512bf16.cpp);
- float32, F(4 x 4, 3 x 3): 36 for 4 x 4 results in place of 144, and 25 (csrc/convolution_avx2.cpp). What
  goes in and comes out is multiplied by up to 8, so in bfloat16 it would lose digits.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from dpclean import _kernels
from dpclean.denoise.group_norm import TYPES
from dpclean.kernels import convolution_type, default_threads, kernel_name

LANES = 32  # channels that the kernels take together
INPUTS = range(16, 1024 + 1)  # channels: fewer are soon done
# G: 3 filter values of a row to those of the transformed one, 4 for 2 results and 6 for 4
FOR_TWO = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
FOR_FOUR = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)  # fmt: skip


class Winograd(nn.Module):
    """A 3 x 3 convolution on the CPU in the type that the kernel in use takes; as it was where its filters learn, in
    another type, or by another kernel.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, filters: Tensor | None = None) -> None:
        super().__init__()
        self.conv, self.dtype = conv, dtype
        # no parameters: they stay as the kernel takes them whatever a module is turned into
        self.filters = _packed(conv.weight.detach(), dtype) if filters is None else filters
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float().clone()

    def forward(self, x: Tensor, added: Tensor | None = None, *, upsampled: bool = False) -> Tensor:
        """The convolution of x, plus what is added, [N, K, H, W], channels_last, rounded once.

        upsampled: of x with each pixel four times. A sample's result does not depend on the batch or the threads.
        Differentiable, also by the kernel.
        """
        learns = torch.is_grad_enabled() and self.conv.weight.requires_grad
        if learns or x.dtype != self.dtype or not _convolves(x.dtype):
            if upsampled:
                x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            y: Tensor = self.conv(x)
            return y if added is None else y + added
        if torch.is_grad_enabled() and (x.requires_grad or (added is not None and added.requires_grad)):
            found: Tensor = _ByKernel.apply(x, added, self, upsampled)
            return found
        return _convolved(x, self.filters, self.bias, added, upsampled=upsampled)

    @cached_property
    def backwards(self) -> Tensor | None:
        """The filters that bring the gradient of a result to that of its input; None where the kernel takes no such."""
        if not _takes(self.conv.out_channels, self.conv.in_channels):
            return None
        return _packed(self.conv.weight.detach().transpose(0, 1).flip(2, 3), self.dtype)

    def gradient(self, of_result: Tensor) -> Tensor:
        """[N, C, H, W], channels_last, of that of a result [N, K, H, W]."""
        if self.backwards is not None:
            return _convolved(of_result, self.backwards, torch.zeros(self.conv.in_channels))
        return nn.functional.conv_transpose2d(of_result, self.conv.weight.to(of_result.dtype), padding=1)


class _ByKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, conv: Winograd, upsampled: bool) -> Tensor:
        ctx.conv, ctx.upsampled = conv, upsampled
        return _convolved(x, conv.filters, conv.bias, added, upsampled=upsampled)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (of_result,) = gradients
        of_x = ctx.conv.gradient(of_result) if ctx.needs_input_grad[0] else None
        if of_x is not None and ctx.upsampled:
            of_x = 4 * nn.functional.avg_pool2d(of_x, 2)
        return of_x, of_result if ctx.needs_input_grad[1] else None, None, None


def _convolved(
    x: Tensor, filters: Tensor, bias: Tensor, added: Tensor | None = None, *, upsampled: bool = False
) -> Tensor:
    """By the kernel, of x with filters packed for its type, of so many outputs as bias [K] has."""
    x = x.contiguous(memory_format=torch.channels_last)
    count, inputs, height, width = x.shape
    if upsampled:
        height, width = 2 * height, 2 * width
    outputs = len(bias)
    out = torch.empty((count, outputs, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    if added is not None:
        if added.shape != out.shape or added.dtype != x.dtype:
            raise ValueError(f"cannot add {added.dtype} {list(added.shape)} to {x.dtype} {list(out.shape)}")
        added = added.contiguous(memory_format=torch.channels_last)
    if out.numel() > 0:
        job = _kernels.ConvolutionJob(
            input=x.data_ptr(), filters=filters.data_ptr(), bias=bias.data_ptr(),
            added=0 if added is None else added.data_ptr(), out=out.data_ptr(), count=count, height=height,
            width=width, inputs=inputs, outputs=outputs, upsampled=upsampled,
        )  # fmt: skip
        _kernels.convolve(kernel_name(), default_threads(), job)
    return out


def with_fewer_products(
    network: nn.Module, dtype: torch.dtype, device: torch.device, like: nn.Module | None = None
) -> None:
    """Puts such convolutions into a network that computes in a type on a device, where there are any.

    like: one with the same filters under the same names, to keep them once. State of the network is loaded before.
    """
    if device.type != "cpu" or not _convolves(dtype):
        return
    known = {} if like is None else dict(like.named_modules())
    for name, block in list(network.named_modules()):
        for part, conv in list(block.named_children()):
            if _fits(conv) and not isinstance(block, Winograd):
                its = known.get(f"{name}.{part}" if name else part)
                setattr(block, part, Winograd(conv, dtype, its.filters if isinstance(its, Winograd) else None))


def _convolves(dtype: torch.dtype) -> bool:
    return dtype in TYPES and TYPES[dtype] == convolution_type()


def _fits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(conv) is not nn.Conv2d or conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return plain and _takes(conv.in_channels, conv.out_channels)


def _takes(inputs: int, outputs: int) -> bool:
    return inputs in INPUTS and outputs % LANES == 0


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Filters [K, C, 3, 3], as the kernel of a type takes them: G g G' at each place.

    float32 [36, K / 16, C, 16]. bfloat16 [16, K / 32, 32 C]: for 32 outputs pairs of inputs, C with zeros up to a
    multiple of 32, of which the even ones come first, as the kernel takes pixels apart.
    """
    if dtype == torch.float32:
        of_places = _transformed(weight, FOR_FOUR).flatten(0, 1)
        by_outputs = of_places.reshape(len(of_places), len(weight) // 16, 16, -1).transpose(2, 3)
        return by_outputs.float().contiguous()
    weight = nn.functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % LANES))
    outputs, inputs = weight.shape[:2]
    of_places = _transformed(weight, FOR_TWO)
    order = torch.cat([torch.arange(0, LANES, 2), torch.arange(1, LANES, 2)])
    places = (torch.arange(0, inputs, LANES)[:, None] + order).flatten()
    by_pairs = of_places[..., places].reshape(16, outputs // LANES, LANES, inputs // 2, 2).transpose(2, 3)
    return by_pairs.reshape(16, outputs // LANES, LANES * inputs).to(torch.bfloat16).contiguous()


def _transformed(weight: Tensor, transform: tuple[tuple[float, ...], ...]) -> Tensor:
    """float64 [rows, columns, K, C]."""
    rows = torch.tensor(transform, dtype=torch.float64)
    return torch.einsum("ai,kcij,bj->abkc", rows, weight.double(), rows)
