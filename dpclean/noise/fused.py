"""The fused forms: uint8 images to a diffusion model's input, and its prediction back to uint8, one pass each.

Every float operation is one float32 operation rounded to nearest even, in the order written, never contracted, so plain
tensor operations give the same bits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from dpclean import _kernels
from dpclean.errors import UsageError
from dpclean.kernels import cuda_errors, default_threads, kernel_name
from dpclean.noise.batch import Draw, check_images, noise_on_cpu, noise_on_cuda, runs_on_cuda

TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def forward_constant(alphas_cumprod: float) -> float:
    """float32(sqrt(abar) / 255), 0 < abar <= 1."""
    return float(np.float32(math.sqrt(_checked(alphas_cumprod)) / 255))


def backward_constants(alphas_cumprod: float, prediction_type: str) -> tuple[float, float]:
    """(p, q) of y = (p x_t + q e) + 127.5, as float32 values; p is not used for "sample"."""
    root, rest = math.sqrt(_checked(alphas_cumprod)), math.sqrt(1.0 - alphas_cumprod)
    if prediction_type == "epsilon":
        p, q = 127.5 / root, -127.5 * rest / root
    elif prediction_type == "v_prediction":
        p, q = 127.5 * root, -127.5 * rest
    elif prediction_type == "sample":
        p, q = 0.0, 127.5
    else:
        raise UsageError(f"prediction type '{prediction_type}' is unknown", "it is epsilon, v_prediction or sample")
    return float(np.float32(p)), float(np.float32(q))


def to_model_input(
    images: torch.Tensor,
    sigma: float,
    alphas_cumprod: float,
    *,
    key: bytes,
    run: int,
    indices: ArrayLike,
    test: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """sqrt(abar) (2 (x + Z) / 255 - 1), [N, C, H, W], nothing clamped and nothing stored in between.

    images: uint8 [N, H, W, C], C 1 or 3, CPU or CUDA. Z, sigma, key, run, indices, test: as in add_noise. dtype:
    bfloat16, float16 or float32. out: a tensor of that shape, dtype and device, contiguous or channels_last, which
    then decides the layout. The layout changes addresses only. UsageError where an argument is out of its range.
    """
    check_images(tuple(images.shape), images.dtype, images.dtype == torch.uint8)
    count, height, width, channels = images.shape
    if channels not in (1, 3):
        raise UsageError(f"images must have 1 or 3 channels, got {channels}", "convert them first")
    draw = Draw.checked(count, sigma, key, run, indices, test)
    a = forward_constant(alphas_cumprod)
    if out is None:
        out = torch.empty(
            (count, channels, height, width),
            dtype=_known(dtype),
            device=images.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
    planar = _check_out(out, (count, channels, height, width), dtype, images.device)
    images, name = images.contiguous(), TYPES[dtype]
    if runs_on_cuda(images):
        noise_on_cuda(draw, images, out, type=name, planar=planar, a=a)
    elif images.is_cuda:
        on_cpu = torch.empty_like(out, device="cpu")
        noise_on_cpu(draw, images.cpu().data_ptr(), images.shape, on_cpu.data_ptr(), type=name, planar=planar, a=a)
        out.copy_(on_cpu)
    else:
        noise_on_cpu(draw, images.data_ptr(), images.shape, out.data_ptr(), type=name, planar=planar, a=a)
    return out


def to_uint8(
    model_input: torch.Tensor,
    prediction: torch.Tensor,
    alphas_cumprod: float,
    *,
    prediction_type: str,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The denoised images, uint8 [N, H, W, C], and bool [N]: whether all of an image's prediction was finite.

    model_input: what the network saw, [N, C, H, W], C 1 or 3. prediction: [N, C' >= C, H, W], channels beyond C are not
    read; for C = 1 and C' >= 3 (grey shown three times) it is the mean of the first three. Each bfloat16, float16 or
    float32, contiguous or channels_last (else copied). prediction_type: epsilon, v_prediction or
    sample. Clamped; ties round to even; NaN becomes 0. out: uint8
    [N, H, W, C], contiguous. UsageError where shapes or types do not fit.
    """
    p, q = backward_constants(alphas_cumprod, prediction_type)
    count, channels, height, width = _check_pair(model_input, prediction)
    shape, device = (count, height, width, channels), model_input.device
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8, device=device)
    elif out.shape != shape or out.dtype != torch.uint8 or out.device != device or not out.is_contiguous():
        raise UsageError(f"out must be contiguous uint8 {list(shape)} on {device}", "leave out away")
    if model_input.is_cuda and not runs_on_cuda(model_input):
        pixels, finite = to_uint8(model_input.cpu(), prediction.cpu(), alphas_cumprod, prediction_type=prediction_type)
        return out.copy_(pixels), finite.to(device)
    finite = torch.empty(count, dtype=torch.uint8, device=device)
    model_input, prediction = _dense(model_input), _dense(prediction)
    job = _kernels.InverseJob(
        p=p, q=q, reads_input=prediction_type != "sample", input=_view(model_input), prediction=_view(prediction),
        channels=channels, pixels=height * width, out=out.data_ptr(),
    )  # fmt: skip
    if model_input.is_cuda:
        with torch.cuda.device(device), cuda_errors():
            stream = torch.cuda.current_stream().cuda_stream
            _kernels.invert_cuda(job, count, finite.data_ptr(), device.index, stream)
    else:
        _kernels.invert(kernel_name(), default_threads(), job, count, finite.data_ptr())
    return out, finite.view(torch.bool)


def _checked(alphas_cumprod: float) -> float:
    if not 0 < alphas_cumprod <= 1:
        raise UsageError(f"alphas_cumprod must be above 0 and at most 1, got {alphas_cumprod}", "give abar at t*")
    return alphas_cumprod


def _known(dtype: torch.dtype) -> torch.dtype:
    if dtype not in TYPES:
        raise UsageError(f"dtype must be bfloat16, float16 or float32, got {dtype}", "choose one of these")
    return dtype


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _check_out(out: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `out` is planar; UsageError where it does not fit."""
    if tuple(out.shape) != shape or out.dtype != _known(dtype) or out.device != device:
        raise UsageError(
            f"out must be {dtype} {list(shape)} on {device}, got {out.dtype} {list(out.shape)} on {out.device}",
            "leave out away",
        )
    if not out.is_contiguous() and not _is_channels_last(out):
        raise UsageError("out must be contiguous or channels_last", "leave out away")
    return not _is_channels_last(out)


def _check_pair(model_input: torch.Tensor, prediction: torch.Tensor) -> tuple[int, int, int, int]:
    _known(model_input.dtype)
    _known(prediction.dtype)
    x, e = tuple(model_input.shape), tuple(prediction.shape)
    if (
        len(x) != 4
        or len(e) != 4
        or x[1] not in (1, 3)
        or (x[0], x[2:]) != (e[0], e[2:])
        or model_input.device != (prediction.device)
    ):
        raise UsageError(
            f"model input and prediction must be [N, 1 or 3, H, W] and [N, C, H, W], got {list(x)} and {list(e)}",
            "give the tensors of one batch on one device",
        )
    if e[1] < x[1] or (x[1], e[1]) == (1, 2):
        raise UsageError(
            f"a prediction of {e[1]} channels does not fit images of {x[1]}", "use a denoiser made for such images"
        )
    return x[0], x[1], x[2], x[3]


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_contiguous() or _is_channels_last(tensor) else tensor.contiguous()


def _view(tensor: torch.Tensor) -> _kernels.View:
    _, channels, height, width = tensor.shape
    pixels = height * width
    strides = (channels * pixels, 1, channels) if _is_channels_last(tensor) else (channels * pixels, pixels, 1)
    return _kernels.View(tensor.data_ptr(), TYPES[tensor.dtype], channels, strides)
