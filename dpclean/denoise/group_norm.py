"""GroupNorm and SiLU in one pass over channels-last activations."""

from __future__ import annotations

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
    compiled kernel takes float32 and bfloat16 on the CPU; elsewhere the same formula runs in torch.
    """
    if x.device.type != "cpu" or x.dtype not in TYPES:
        y = F.group_norm(x.float(), groups, weight, bias, eps)
        return (F.silu(y) if silu else y).to(x.dtype)
    count, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    if not weight.shape == bias.shape == (channels,):
        raise ValueError(f"weight and bias must have shape [{channels}], got {list(weight.shape)}, {list(bias.shape)}")
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    job = _kernels.GroupNormJob(
        input=x.data_ptr(), out=out.data_ptr(), type=TYPES[x.dtype], weight=weight.data_ptr(), bias=bias.data_ptr(),
        pixels=height * width, channels=channels, groups=groups, eps=eps, silu=silu,
    )  # fmt: skip
    _kernels.group_norm_silu(kernel_name(), default_threads(), job, count)
    return out
