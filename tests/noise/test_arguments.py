"""What noise.md calls an error is refused; what is allowed at the edges works."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from dpclean.errors import UsageError
from dpclean.kernels import kernel_name, kernel_names
from dpclean.noise import SIGMA_MAX, add_noise, to_model_input
from tests.noise.known import KEY

IMAGES = np.full((2, 5, 4, 3), 200, np.uint8)
GOOD: dict[str, Any] = {"sigma": 0.25, "key": KEY, "run": 0, "indices": [0, 1]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": -0.25}, {"sigma": math.nan}, {"sigma": 4.0000001}, {"sigma": math.inf},
        {"key": bytes(31)}, {"key": "k" * 32}, {"run": -1}, {"run": 2**32},
        {"indices": [0]}, {"indices": [0, -1]}, {"indices": [0, 2**63]}, {"indices": [0.0, 1.0]},
        {"indices": [[0, 1]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    add_noise(IMAGES, **GOOD)
    with pytest.raises(UsageError):
        add_noise(IMAGES, **{**GOOD, **wrong})
    with pytest.raises(UsageError):
        to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=0.5, **{**GOOD, **wrong})


@pytest.mark.parametrize(
    "images", [IMAGES.astype(np.int16), IMAGES[0], torch.from_numpy(IMAGES).float(), IMAGES.tolist()], ids=type
)
def test_images_of_another_kind_are_refused(images: Any) -> None:
    with pytest.raises(UsageError):
        add_noise(images, **GOOD)


def test_an_image_of_2_to_the_31_samples_is_refused() -> None:
    huge = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (1, 2**16, 2**15, 1))
    with pytest.raises(UsageError, match="2\\^31"):
        add_noise(huge, 0.25, key=KEY, run=0, indices=[0])


@pytest.mark.parametrize("abar", [0.0, -0.1, 1.01, math.nan])
def test_alphas_cumprod_out_of_range_is_refused(abar: float) -> None:
    with pytest.raises(UsageError):
        to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=abar, **GOOD)


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(2, 3, 5, 4), torch.empty(2, 3, 4, 5, dtype=torch.bfloat16),
        torch.empty(2, 3, 5, 8, dtype=torch.bfloat16)[..., ::2],
    ],
    ids=["dtype", "shape", "strides"],
)  # fmt: skip
def test_an_out_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    with pytest.raises(UsageError):
        to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=0.5, out=out, **GOOD)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_out_decides_the_layout(layout: torch.memory_format) -> None:
    out = torch.empty(2, 3, 5, 4, dtype=torch.bfloat16, memory_format=layout)
    assert to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=0.5, out=out, **GOOD) is out
    assert torch.equal(out, to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=0.5, **GOOD))


def test_four_channels_have_noise_but_no_fused_form() -> None:
    images = np.zeros((2, 5, 4, 4), np.uint8)
    assert add_noise(images, **GOOD).std() > 30
    with pytest.raises(UsageError, match="channels"):
        to_model_input(torch.from_numpy(images), alphas_cumprod=0.5, **GOOD)


def test_without_noise_the_integers_are_the_pixels(kernel: str) -> None:
    assert np.array_equal(add_noise(IMAGES, **{**GOOD, "sigma": 0}), IMAGES)
    got = to_model_input(torch.from_numpy(IMAGES), alphas_cumprod=1.0, dtype=torch.float32, **{**GOOD, "sigma": 0.0})
    assert torch.equal(got, torch.full((2, 3, 5, 4), 145.0) * torch.tensor(np.float32(1 / 255)))


def test_the_largest_sigma_stays_in_int16(kernel: str) -> None:
    images = np.full((1, 256, 256, 3), 255, np.uint8)
    noised = add_noise(images, SIGMA_MAX, key=KEY, run=0, indices=[0]).astype(np.int64)
    assert abs(noised.mean() - 255) < 10 and abs(noised.std() / 1020 - 1) < 0.01


@pytest.mark.parametrize("shape", [(0, 5, 4, 3), (2, 0, 4, 3)])
def test_nothing_in_nothing_out(shape: tuple[int, ...], kernel: str) -> None:
    images = np.zeros(shape, np.uint8)
    assert add_noise(images, 0.25, key=KEY, run=0, indices=list(range(shape[0]))).shape == shape
    model_input = to_model_input(torch.from_numpy(images), 0.25, 0.5, key=KEY, run=0, indices=list(range(shape[0])))
    assert model_input.shape == (shape[0], shape[3], shape[1], shape[2])


def test_indices_may_be_any_integer_container() -> None:
    expected = add_noise(IMAGES, **GOOD)
    for indices in (range(2), torch.arange(2), np.arange(2, dtype=np.uint8), (0, 1)):
        assert np.array_equal(add_noise(IMAGES, **{**GOOD, "indices": indices}), expected)


def test_a_kernel_this_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPCLEAN_KERNEL", raising=False)
    assert kernel_name() == kernel_names()[0] and kernel_names()[-1] == "scalar"
    monkeypatch.setenv("DPCLEAN_KERNEL", "neon")
    with pytest.raises(UsageError, match="neon.*scalar"):
        add_noise(IMAGES, **GOOD)


def test_numpy_users_do_not_pay_for_torch() -> None:
    program = (
        "import sys, numpy, dpclean.noise as n; "
        "n.add_noise(numpy.zeros((1, 2, 2, 3), 'uint8'), 0.1, key=bytes(32), run=0, indices=[0]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
