"""Taking back what a prediction drifts from the image that it was made from.

A network looks at a few dozen pixels around each one, and pulls a large flat area of a rare colour towards common ones,
although the mean of so many noised pixels leaves no doubt about the colour. So the mean of every area is held against
the noised one's: noise explains a difference of a few standard errors; what is beyond them is taken back. Pixels are
clipped to 0..255 after that, which cuts off one side of what fluctuates around 0 or 255: saturated colours move inwards
by a few levels (a flat red by 4 to 6 at sigma 0.25 to 0.5).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from dpclean import _kernels
from dpclean.denoise.precision import at_least_float32
from dpclean.denoise.schedule import NoiseLevel
from dpclean.kernels import default_threads
from dpclean.noise.fused import TYPES

AREAS = (256, 128, 64, 32)  # edges in pixels, after the whole image
STANDARD_ERRORS = 2.0


def correction_of(noised: Tensor, prediction: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """What is to be added to the images' areas, float32 [N, C, rows, columns] on [-1, 1]: mostly zeros.

    noised: the model's input [N, C, H, W]; prediction: of its size, for grey also [N, 3, H, W], of which the mean
    counts. Samples do not influence each other.
    """
    height, width = noised.shape[2:]
    shapes = [(max(1, round(height / area)), max(1, round(width / area))) for area in (1 << 62, *AREAS)]
    means = area_means(noised, *shapes[-1])
    predicted = area_means(prediction, *shapes[-1])
    if noised.shape[1] == 1:
        predicted = predicted.mean(1, keepdim=True)
    # how far the noised image is away from the clean one, on [-1, 1], is linear in both: so are the means
    of_noised, of_prediction = _away(level, prediction_type)
    away = of_noised * means + of_prediction * predicted
    total = torch.zeros_like(away)
    for rows, columns in dict.fromkeys(shapes):
        error = 2 * level.sigma * (rows * columns / (height * width)) ** 0.5
        beyond = functional.softshrink(area_means(away - total, rows, columns), STANDARD_ERRORS * error)
        total += _stretched(_stretched(beyond, away.shape[2], 2), away.shape[3], 3)
    return total


def corrected(correction: Tensor, prediction: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """The predictions, float32 [N, C, H, W], whose images have what `correction_of` found added to them."""
    prediction = at_least_float32(prediction).clone() if prediction.requires_grad else at_least_float32(prediction)
    if correction.shape[1] == 1:
        prediction = prediction.mean(1, keepdim=True)
    height, width = prediction.shape[2:]
    unit = -1 / _away(level, prediction_type)[1]  # a higher image is less away
    for channel in range(prediction.shape[1]):  # one of a large image is large enough
        change = _stretched(_stretched(correction[:, channel : channel + 1], height, 2), width, 3)
        prediction[:, channel : channel + 1] += change * unit
    return prediction


def _away(level: NoiseLevel, prediction_type: str) -> tuple[float, float]:
    """(a, b): noised / signal - clean = a noised + b prediction."""
    signal, noise = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5
    return {
        "epsilon": (0.0, noise / signal),
        "v_prediction": (1 / signal - signal, noise),
        "sample": (1 / signal, -1.0),
    }[prediction_type]


def area_means(images: Tensor, rows: int, columns: int) -> Tensor:
    """float32 [N, C, rows, columns]: means over areas of [N, C, H, W], those of torch's adaptive_avg_pool2d.

    images: bfloat16, float16 or float32. An image's means do not depend on the batch or on the number of threads, which
    torch's would; those that a gradient goes through are torch's.
    """
    if images.device.type != "cpu" or images.requires_grad or images.dtype not in TYPES:
        return functional.adaptive_avg_pool2d(at_least_float32(images), (rows, columns))
    count, channels, height, width = images.shape
    if images.stride(2) != width * images.stride(3):
        images = images.clone(memory_format=torch.contiguous_format)
    out = torch.empty((count, channels, rows, columns))
    strides = (images.stride(0), images.stride(1), images.stride(3))
    view = _kernels.View(images.data_ptr(), TYPES[images.dtype], channels, strides)
    _kernels.area_means(default_threads(), view, count, height, width, rows, columns, out.data_ptr())
    return out


def _stretched(means: Tensor, size: int, axis: int) -> Tensor:
    """Areas to pixels along one axis, linear between the areas' middles.

    In three elementwise steps: torch's own interpolation differs in its last bits with the number of threads.
    """
    areas = means.shape[axis]
    if areas == 1:
        return means.expand(*means.shape[:axis], size, *means.shape[axis + 1 :])
    low, high, share = _between(areas, size, means.device)
    share = share.view(-1, *[1] * (3 - axis))
    return means.index_select(axis, low) * (1 - share) + means.index_select(axis, high) * share


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept may be needed for a gradient
def _between(areas: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of size pixels the area below, the area above, int64, and the share of the latter, float32."""
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * areas / size - 0.5).clamp(0, areas - 1)
    low = place.floor().long()
    share = (place - place.floor()).float()
    return low.to(device), (low + 1).clamp(max=areas - 1).to(device), share.to(device)
