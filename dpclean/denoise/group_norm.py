"""GroupNorm and SiLU in one pass over channels-last activations, and its gradients in two."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from dpclean import _kernels
from dpclean.noise.kernels import default_threads, kernel_name

TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def group_norm_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool = True
) -> torch.Tensor:
    """SiLU(GroupNorm(x)), or GroupNorm(x), [N, C, H, W] in the type and layout of x; computed in float32.

    x: channels_last. weight, bias: float32 [C]. A sample's result does not depend on the batch or the threads. The
    compiled kernels take float32 and bfloat16 on the CPU; elsewhere the same formula runs in torch. Differentiable.
    """
    if x.device.type != "cpu" or x.dtype not in TYPES:
        y = F.group_norm(x.float(), groups, weight, bias, eps)
        return (F.silu(y) if silu else y).to(x.dtype)
    channels = x.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    if not weight.shape == bias.shape == (channels,):
        raise ValueError(f"weight and bias must have shape [{channels}], got {list(weight.shape)}, {list(bias.shape)}")
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        out: torch.Tensor = _Differentiable.apply(x, weight, bias, groups, eps, silu)
        return out
    return _forward(x, weight, bias, groups, eps, silu)


def _job(
    x: torch.Tensor, out: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> _kernels.GroupNormJob:
    return _kernels.GroupNormJob(
        input=x.data_ptr(), out=out.data_ptr(), type=TYPES[x.dtype], weight=weight.data_ptr(), bias=bias.data_ptr(),
        pixels=x.shape[2] * x.shape[3], channels=x.shape[1], groups=groups, eps=eps, silu=silu,
    )  # fmt: skip


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> torch.Tensor:
    out = torch.empty_like(x)
    if x.numel() > 0:
        job = _job(x, out, weight, bias, groups, eps, silu)
        _kernels.group_norm_silu(kernel_name(), default_threads(), job, len(x))
    return out


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.options = groups, eps, silu
        return _forward(x, weight, bias, groups, eps, silu)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, bias = ctx.saved_tensors
        out, of_each = torch.empty_like(x), torch.zeros((2, *x.shape[:2]))
        if x.numel() > 0:
            gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
            _kernels.group_norm_silu_gradient(
                kernel_name(), default_threads(), _job(x, out, weight, bias, *ctx.options),
                gradient.data_ptr(), of_each[0].data_ptr(), of_each[1].data_ptr(), len(x),
            )  # fmt: skip
        of_weight, of_bias = of_each.sum(1)
        return out, of_weight, of_bias, None, None, None
