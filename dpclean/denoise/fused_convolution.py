"""A convolution whose result is added to something else, in one pass over the activations."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dpclean import _kernels
from dpclean.denoise.group_norm import CUDA_TYPES
from dpclean.denoise.winograd import Winograd
from dpclean.kernels import cuda_built, cuda_errors

# what torch's own compiler emits for this on a CPU; no public name, so it is used only where it is exactly this
_SCHEMA = (
    "mkldnn::_convolution_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, int[] padding, int[] stride,"
    " int[] dilation, int groups, str binary_attr, Scalar? alpha, str? unary_attr, Scalar?[] unary_scalars,"
    " str? unary_algorithm) -> Tensor Y"
)


def _find() -> Any:
    operator = getattr(getattr(torch.ops.mkldnn, "_convolution_pointwise", None), "binary", None)
    known = operator is not None and str(operator._schema) == _SCHEMA and torch.backends.mkldnn.is_available()
    return operator if known else None


_FUSED = _find()


@cache
def _fused_takes(dtype: torch.dtype) -> bool:
    """Half precision only where the processor has instructions for it; a plain convolution does without."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def convolved_onto(conv: nn.Conv2d | Winograd, x: Tensor, other: Tensor, other_bias: Tensor | None = None) -> Tensor:
    """conv(x) + other + other_bias, channels_last; rounded once where it is one pass, else after each step.

    other_bias: [channels], of the convolution that gave `other`, if it did not add it.
    """
    if isinstance(conv, Winograd):
        fewer: Tensor = conv(x, other if other_bias is None else other + other_bias[:, None, None])
        return fewer
    if fuses_bias(x):
        return _summed(without_bias(conv, x), other, conv.bias, other_bias)
    if other_bias is not None:
        other = other + other_bias[:, None, None]
    fits = x.device.type == "cpu" and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if _FUSED is None or not fits or not _fused_takes(x.dtype) or torch.is_grad_enabled():
        return conv(x).add_(other)  # type: ignore[no-any-return]
    fused: Tensor = _FUSED(
        x, other, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "add", None, None, [],
        None,
    )  # fmt: skip
    return fused


def fuses_bias(x: Tensor) -> bool:
    """Whether convolutions of x had better leave their bias to what reads them: on CUDA it is a pass of its own."""
    return x.is_cuda and cuda_built() and x.dtype in CUDA_TYPES and not torch.is_grad_enabled()


def without_bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) before its bias, channels_last."""
    y: Tensor = conv._conv_forward(x, conv.weight, None)
    return y.contiguous(memory_format=torch.channels_last)


def _summed(x: Tensor, other: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
    """x + other + first + second, over x."""
    if x.shape != other.shape or x.dtype != other.dtype:
        raise ValueError(f"cannot add {other.dtype} {list(other.shape)} to {x.dtype} {list(x.shape)}")
    other = other.contiguous(memory_format=torch.channels_last)
    first, second = (None if b is None else b.to(x.dtype).contiguous() for b in (first, second))
    if x.numel() > 0:
        with torch.cuda.device(x.device), cuda_errors():
            _kernels.sum_cuda(
                x=x.data_ptr(), other=other.data_ptr(), first=0 if first is None else first.data_ptr(),
                second=0 if second is None else second.data_ptr(), out=x.data_ptr(), type=CUDA_TYPES[x.dtype],
                count=x.numel(), channels=x.shape[1], device=x.device.index,
                stream=torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
    return x
