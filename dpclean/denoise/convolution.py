"""A convolution whose result is added to something else, in one pass over the activations."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

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


def convolved_onto(conv: nn.Conv2d, x: Tensor, other: Tensor) -> Tensor:
    """conv(x) + other, channels_last; rounded once where it is one pass, twice elsewhere."""
    fits = x.device.type == "cpu" and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if _FUSED is None or not fits or not _fused_takes(x.dtype):
        return conv(x).add_(other)  # type: ignore[no-any-return]
    fused: Tensor = _FUSED(
        x, other, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "add", None, None, [],
        None,
    )  # fmt: skip
    return fused
