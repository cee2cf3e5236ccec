"""GroupNorm and SiLU in one pass over channels-last activations, and on the CPU its gradients in two."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from dpclean import _kernels
from dpclean.denoise.precision import at_least_float32
from dpclean.kernels import cuda_built, cuda_errors, default_threads, kernel_name

TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
CUDA_TYPES = {**TYPES, torch.float16: "f16"}
MOST_IN_A_GROUP = 256  # channels, of the CUDA kernel


def group_norm_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool = True,
    added: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """SiLU(GroupNorm(x + added)), or without SiLU, [N, C, H, W] in the type and layout of x; computed in float32.

    x: channels_last. weight, bias: float32 [C]. added: [C], such as the bias of the convolution that x comes from. A
    sample's result does not depend on the batch or the threads. The compiled kernels take float32 and bfloat16 on the
    CPU, and float16 too on CUDA where no gradient is wanted; elsewhere the same formula runs in torch. Differentiable.
    """
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    if x.is_cuda and not wants_gradient and takes_on_cuda(x.dtype, x.shape[1] // groups):
        return _on_cuda(x, weight, bias, groups, eps, silu, added)
    if added is not None:
        x = x + added[:, None, None]
    if x.device.type != "cpu" or x.dtype not in TYPES:
        y = at_least_float32(x)
        y = F.group_norm(y, groups, weight.to(y.dtype), bias.to(y.dtype), eps)
        return (F.silu(y) if silu else y).to(x.dtype)
    channels = x.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    if not weight.shape == bias.shape == (channels,):
        raise ValueError(f"weight and bias must have shape [{channels}], got {list(weight.shape)}, {list(bias.shape)}")
    if wants_gradient:
        out: torch.Tensor = _Differentiable.apply(x, weight, bias, groups, eps, silu)
        return out
    return _forward(x, weight, bias, groups, eps, silu)


def takes_on_cuda(dtype: torch.dtype, channels_in_a_group: int) -> bool:
    """Whether there is a CUDA kernel for such activations."""
    return cuda_built() and dtype in CUDA_TYPES and channels_in_a_group <= MOST_IN_A_GROUP


def _on_cuda(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool,
    added: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """On the current stream; what it allocates is torch's, so that it can be captured in a graph."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    if added is not None:
        added = added.to(x.dtype).contiguous()
    if not all(t is None or (t.shape == (x.shape[1],) and t.device == x.device) for t in (weight, bias, added)):
        raise ValueError(f"weight, bias and what is added must have shape [{x.shape[1]}] on {x.device}")
    out = torch.empty_like(x)
    if x.numel() > 0:
        job, device = _job(x, out, weight, bias, groups, eps, silu), x.device.index
        with torch.cuda.device(x.device), cuda_errors():
            scratch = torch.empty(
                _kernels.group_norm_cuda_scratch(job, len(x), device), dtype=torch.uint8, device=x.device
            )
            stream = torch.cuda.current_stream().cuda_stream
            _kernels.group_norm_cuda(
                job, len(x), 0 if added is None else added.data_ptr(), scratch.data_ptr(), device, stream
            )
    return out


def _job(
    x: torch.Tensor, out: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> _kernels.GroupNormJob:
    return _kernels.GroupNormJob(
        input=x.data_ptr(), out=out.data_ptr(), type=CUDA_TYPES[x.dtype], weight=weight.data_ptr(),
        bias=bias.data_ptr(), pixels=x.shape[2] * x.shape[3], channels=x.shape[1], groups=groups, eps=eps, silu=silu,
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
