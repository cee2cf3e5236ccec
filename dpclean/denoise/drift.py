"""Taking back what a prediction drifts from the image that it was made from.

A network looks at a few dozen pixels around each one, and pulls a large flat area of a rare colour towards common ones,
although the mean of so many noised pixels leaves no doubt about the colour. So the mean of every area is held against
the noised one's: noise explains a difference of a few standard errors; what is beyond them is taken back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpclean.denoise.schedule import NoiseLevel

AREAS = (256, 128, 64, 32)  # edges in pixels, after the whole image
STANDARD_ERRORS = 2.0
AT_ONCE = 1 << 24  # values; of larger images one channel at a time


def without_drift(noised: Tensor, prediction: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """The prediction, float32 [N, C, H, W], whose areas' means differ from the noised ones by what noise explains.

    noised: the model's input [N, C, H, W]; prediction: of its size, changed in place where it is float32; for grey
    also [N, 3, H, W], of which the mean is taken first, since its channels got one noise. Samples do not influence each
    other.
    """
    prediction = prediction.float()
    if noised.shape[1] == 1:
        prediction = prediction.mean(1, keepdim=True)
    if level.sigma == 0:
        return prediction
    signal, noise = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5
    # what one unit of the image, on [-1, 1], is in the prediction
    unit = {"epsilon": -signal / noise, "v_prediction": -1 / noise, "sample": 1.0}[prediction_type]
    channels = prediction.shape[1]
    step = channels if prediction.numel() <= AT_ONCE else 1
    for part in (slice(first, first + step) for first in range(0, channels, step)):
        x = noised[:, part].float()
        image = _image(x, prediction[:, part], signal, noise, prediction_type)
        drift = _drift((x / signal).sub_(image).contiguous(), level.sigma)
        if drift.any():
            height, width = x.shape[2:]
            prediction[:, part] += _stretched(_stretched(drift, height, 2), width, 3).mul_(unit)
    return prediction


def _drift(away: Tensor, sigma: float) -> Tensor:
    """What is to be added to an image, by areas of the smallest size, given how far the noised one is away from it."""
    height, width = away.shape[2:]
    shapes = [(max(1, round(height / area)), max(1, round(width / area))) for area in (1 << 62, *AREAS)]
    away = _area_means(away, shapes[-1])
    total = torch.zeros_like(away)
    for rows, columns in dict.fromkeys(shapes):
        error = 2 * sigma * (rows * columns / (height * width)) ** 0.5
        beyond = functional.softshrink(_area_means(away - total, (rows, columns)), STANDARD_ERRORS * error)
        total += _stretched(_stretched(beyond, away.shape[2], 2), away.shape[3], 3)
    return total


def _area_means(away: Tensor, shape: tuple[int, int]) -> Tensor:
    """[N, C, *shape], summed in one order whatever the batch and the threads: torch's mean over all is not."""
    whole = shape == (1, 1)
    means: Tensor = (
        functional.avg_pool2d(away, away.shape[2:]) if whole else functional.adaptive_avg_pool2d(away, shape)
    )
    return means


def _stretched(means: Tensor, size: int, axis: int) -> Tensor:
    """Areas to pixels along one axis, linear between the areas' middles.

    In three elementwise steps: torch's own interpolation differs in its last bits with the number of threads.
    """
    areas = means.shape[axis]
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * areas / size - 0.5).clamp(0, areas - 1)
    share = (place - place.floor()).float().to(means.device).view(-1, *[1] * (3 - axis))
    low = place.floor().long().to(means.device)
    below, above = means.index_select(axis, low), means.index_select(axis, (low + 1).clamp(max=areas - 1))
    return below * (1 - share) + above * share


def _image(noised: Tensor, prediction: Tensor, signal: float, noise: float, prediction_type: str) -> Tensor:
    """x0 on [-1, 1] from the model's input and its prediction."""
    if prediction_type == "epsilon":
        return (noised - noise * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * noised - noise * prediction
    return prediction
