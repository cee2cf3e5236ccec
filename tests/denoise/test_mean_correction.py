"""Mean and colour stay, tiles leave no seams, and the ends of the range of sigma are met with grace."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import BUNDLED, find_denoiser
from dpclean.denoise.mean_correction import STANDARD_ERRORS, area_means, corrected, correction_of
from dpclean.denoise.schedule import NoiseLevel
from dpclean.noise import add_noise

KEY = bytes(range(32))
EDGE = 144
COLOURS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 40, 90), (20, 220, 130)]


def level_of(sigma: float) -> NoiseLevel:
    return NoiseLevel(sigma, 1 / (1 + 4 * sigma**2), 100.0)


def model_input(clean: torch.Tensor, level: NoiseLevel, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(input, noise) of images [N, C, H, W] on [-1, 1]."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    abar = level.alphas_cumprod
    return abar**0.5 * clean + (1 - abar) ** 0.5 * noise, noise


def after_correction(noised: torch.Tensor, prediction: torch.Tensor, level: NoiseLevel, kind: str) -> torch.Tensor:
    correction = correction_of(noised, prediction, level, kind)
    return corrected(correction, prediction.clone(), level, kind)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_area_means_are_those_of_adaptive_pooling(dtype: torch.dtype) -> None:
    images = torch.randn(3, 3, 70, 131, generator=torch.Generator().manual_seed(0)).to(dtype)
    for laid_out in (images, images.contiguous(memory_format=torch.channels_last), images[:, 1:, :69], images[:, :1]):
        for shape in ((1, 1), (2, 4), (9, 7)):
            expected = torch.nn.functional.adaptive_avg_pool2d(laid_out.double(), shape)
            assert (area_means(laid_out, *shape) - expected).abs().max() < 1e-6
    whole, before = area_means(images, 2, 4), torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert torch.equal(area_means(images[1:2], 2, 4), whole[1:2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_an_offset_is_taken_back_but_for_the_standard_errors(prediction_type: str) -> None:
    level = level_of(0.5)
    clean = torch.rand(3, 3, 96, 160, generator=torch.Generator().manual_seed(1)) - 0.5
    x, noise = model_input(clean, level)
    signal, rest = level.alphas_cumprod**0.5, (1 - level.alphas_cumprod) ** 0.5

    def predicted(image: torch.Tensor) -> torch.Tensor:
        eps = (x - signal * image) / rest
        return {"epsilon": eps, "v_prediction": signal * eps - rest * image, "sample": image}[prediction_type]

    def image_of(prediction: torch.Tensor) -> torch.Tensor:
        if prediction_type == "epsilon":
            return (x - rest * prediction) / signal
        return signal * x - rest * prediction if prediction_type == "v_prediction" else prediction

    error = STANDARD_ERRORS * 2 * level.sigma / (96 * 160) ** 0.5
    for offset in (0.3, -0.3):
        found = image_of(after_correction(x, predicted(clean + offset), level, prediction_type))
        left = (found - clean).mean((2, 3))
        assert left.abs().max() < 3 * error < 0.2 * abs(offset)


def test_what_noise_explains_stays_as_it_is() -> None:
    level = level_of(0.25)
    clean = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(4)) - 0.5
    x, noise = model_input(clean, level)
    x = x - (1 - level.alphas_cumprod) ** 0.5 * noise.mean((2, 3), keepdim=True)  # noise whose means are 0
    assert torch.equal(after_correction(x, clean, level, "sample"), clean)


def test_a_drift_in_one_part_is_taken_back_there() -> None:
    level = level_of(0.25)
    clean = torch.zeros(1, 3, 256, 256)
    x, _ = model_input(clean, level)
    wrong = clean.clone()
    wrong[:, 0, :128, :128] = 0.5  # reddish in a corner
    found = after_correction(x, wrong, level, "sample")
    assert found[:, 0, 16:112, 16:112].mean().abs() < 0.06
    assert found[:, 1:].abs().mean() < 0.01 and found[:, 0, 160:, 160:].abs().mean() < 0.02


def test_a_sample_does_not_depend_on_its_neighbours_or_on_threads() -> None:
    level = level_of(0.5)
    x, _ = model_input(torch.zeros(5, 3, 130, 70), level)
    prediction = torch.randn(5, 3, 130, 70, generator=torch.Generator().manual_seed(3)).bfloat16()
    prediction = prediction.contiguous(memory_format=torch.channels_last)
    whole, before = after_correction(x, prediction, level, "v_prediction"), torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(after_correction(x[2:3], prediction[2:3], level, "v_prediction"), whole[2:3])
    finally:
        torch.set_num_threads(before)


each_bundled = pytest.mark.parametrize("name", list(BUNDLED))


@cache
def bundled(name: str, sigma: float) -> Denoiser:
    return Denoiser(find_denoiser(name), sigma)


def denoised(name: str, sigma: float, images: list[np.ndarray]) -> list[np.ndarray]:
    results = bundled(name, sigma).denoise(enumerate(images), key=KEY)
    return [r.pixels.astype(float) for r in sorted(results, key=lambda r: r.index)]


@each_bundled
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.25, 0.5, 1.0])
def test_flat_images_keep_their_colour(name: str, sigma: float) -> None:
    images = [np.full((EDGE, EDGE, 3), colour, np.uint8) for colour in COLOURS]
    error = 255 * sigma / EDGE
    for image, found in zip(images, denoised(name, sigma, images), strict=True):
        assert np.abs(found.mean((0, 1)) - image[0, 0]).max() < 1 + (STANDARD_ERRORS + 3) * error


@each_bundled
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_slopes_keep_their_course(name: str, sigma: float) -> None:
    y, x = np.mgrid[0 : 1 : EDGE * 1j, 0 : 1 : EDGE * 1j]
    image = np.stack([40 + 160 * x, 60 + 120 * y, 200 - 160 * x], -1).round().astype(np.uint8)
    (found,) = denoised(name, sigma, [image])
    away = found - image
    assert np.abs(away.mean((0, 1))).max() < 1 + 4 * 255 * sigma / EDGE
    quarters = away.reshape(2, EDGE // 2, 2, EDGE // 2, 3).mean((1, 3))
    assert np.abs(quarters).max() < 1 + 6 * 255 * sigma / (EDGE / 2)


@each_bundled
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_tiles_leave_no_seams(name: str, sigma: float) -> None:
    width, height = 700, 200
    image = np.repeat(np.linspace(40, 210, width)[None, :, None].repeat(height, 0), 3, 2).round().astype(np.uint8)
    (found,) = denoised(name, sigma, [image])
    shapes = bundled(name, sigma).shapes
    columns, rows = (found - image).mean((0, 2)), (found - image).mean((1, 2))
    for profile, size in ((columns, width), (rows, height)):
        starts = shapes.starts(size)
        jumps = np.abs(np.diff(profile))
        shared = np.zeros(len(jumps), bool)  # where two tiles meet
        for start, before, length in zip(starts[1:], starts, shapes.lengths(size), strict=False):
            shared[start - 1 : before + length + 1] = True
        assert shared.any() and not shared.all()
        assert jumps[shared].max() <= 1.3 * jumps[~shared].max() + 0.1


@each_bundled
@pytest.mark.parametrize("sigma", [0.01, 2.0, 4.0])
def test_beyond_the_range_it_was_fitted_for_the_result_is_still_better_than_the_noise(name: str, sigma: float) -> None:
    y, x = np.mgrid[0 : 1 : EDGE * 1j, 0 : 1 : EDGE * 1j]
    image = np.stack([60 + 120 * x, 60 + 120 * y, 180 - 120 * x], -1).round().astype(np.uint8)
    (found,) = denoised(name, sigma, [image])
    noised = add_noise(image[None], sigma, key=KEY, run=0, indices=np.array([0]))[0].clip(0, 255)
    rms = [np.sqrt(np.mean((result - image.astype(float)) ** 2)) for result in (found, noised)]
    assert rms[0] < max(1.5, 0.8 * rms[1])
    assert np.abs((found - image).mean((0, 1))).max() < 1 + 5 * 255 * sigma / EDGE
