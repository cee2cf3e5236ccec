"""A convolution whose result is added to something else, in one pass over the activations."""

from __future__ import annotations

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


def convolved_onto(conv: nn.Conv2d, x: Tensor, other: Tensor) -> Tensor:
    """conv(x) + other, channels_last; rounded once where it is one pass, twice elsewhere."""
    if _FUSED is None or x.device.type != "cpu" or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return conv(x).add_(other)  # type: ignore[no-any-return]
    fused: Tensor = _FUSED(
        x, other, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "add", None, None, [],
        None,
    )  # fmt: skip
    return fused
