"""The CUDA kernels give the CPU's bits. Skipped where there is no GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dpclean.kernels import cuda_built
from dpclean.noise import add_noise, to_model_input, to_uint8
from tests.noise.known import KEY, VECTORS, address, known_image, sha256

pytestmark = pytest.mark.gpu


def test_cuda_was_built_for_this_machine() -> None:
    assert cuda_built(), "a machine with a GPU should have nvcc when dpclean is built"


@pytest.mark.parametrize("answer", VECTORS["cases"], ids=lambda a: f"{a['sigma']}-{a['index']}-{a['shape']}")
def test_known_answers(answer: dict[str, Any]) -> None:
    x = torch.from_numpy(known_image(answer["image"], answer["shape"])[None]).cuda()
    noised = add_noise(x, answer["sigma"], **address(answer))
    assert noised.is_cuda
    assert sha256(noised[0].cpu().numpy()) == answer["sha256_noised"]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(5, 37, 29, 3), (5, 28, 28, 1), (1, 1, 1, 3), (300, 32, 32, 3), (3, 16, 20, 3)])
def test_fused_forms(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> None:
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    for sigma in (0.0, 0.25, 4.0):
        kwargs: dict[str, Any] = {"key": KEY, "run": 1, "indices": range(shape[0]), "channels_last": channels_last}
        sample = to_model_input(x, sigma, 0.6, dtype=dtype, **kwargs)
        assert torch.equal(to_model_input(x.cuda(), sigma, 0.6, dtype=dtype, **kwargs).cpu(), sample)
        e = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        e.view(-1)[0] = math.nan
        for kind in ("epsilon", "v_prediction", "sample"):
            expected = to_uint8(sample, e, 0.6, prediction_type=kind)
            got = to_uint8(sample.cuda(), e.cuda(), 0.6, prediction_type=kind)
            assert torch.equal(got[0].cpu(), expected[0]) and torch.equal(got[1].cpu(), expected[1])


def test_runs_on_the_current_stream() -> None:
    x = torch.zeros(64, 64, 64, 3, dtype=torch.uint8, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        x += 7  # unfinished when the kernel is asked for
        noised = add_noise(x, 0.25, key=KEY, run=1, indices=range(64))
    torch.cuda.synchronize()
    assert torch.equal(noised.cpu(), add_noise(x.cpu(), 0.25, key=KEY, run=1, indices=range(64)))
