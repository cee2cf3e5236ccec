"""The noise of an image depends on (key, run, index, test, sigma) and on nothing else."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpclean.noise import add_noise, to_model_input
from tests.kernels import KERNELS
from tests.noise.known import KEY

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
SIGMAS = st.sampled_from([0.02, 0.25, 1.0, 4.0])


def random_images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", KERNELS)
@given(shape=SHAPES, sigma=SIGMAS, first=st.integers(0, 2**63 - 6))
def test_a_batch_is_its_images_one_by_one(name: str, shape: tuple[int, ...], sigma: float, first: int) -> None:
    x, indices = random_images(shape), np.arange(first, first + shape[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", name)
        batch = add_noise(x, sigma, key=KEY, run=1, indices=indices)
        patch.setenv("DPCLEAN_KERNEL", "scalar")
        for i in range(shape[0]):
            alone = add_noise(x[i : i + 1], sigma, key=KEY, run=1, indices=indices[i : i + 1])
            assert np.array_equal(batch[i], alone[0])


@pytest.mark.parametrize("name", KERNELS)
@given(shape=SHAPES, planar=st.booleans(), dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_the_fused_form_is_the_plain_one_for_any_shape(
    name: str, shape: tuple[int, ...], planar: bool, dtype: torch.dtype
) -> None:
    x, indices = torch.from_numpy(random_images(shape)), np.arange(shape[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPCLEAN_KERNEL", name)
        got = to_model_input(x, 0.5, 0.3, key=KEY, run=2, indices=indices, dtype=dtype, channels_last=not planar)
    noised = add_noise(x, 0.5, key=KEY, run=2, indices=indices).to(torch.float32)
    expected = (2 * noised - 255) * torch.tensor(np.float32(np.sqrt(0.3) / 255))
    assert torch.equal(got, expected.to(dtype).permute(0, 3, 1, 2))


def test_order_of_the_batch(kernel: str) -> None:
    x, order = random_images((9, 31, 17, 3)), np.random.default_rng(0).permutation(9)
    straight = add_noise(x, 0.25, key=KEY, run=1, indices=np.arange(9))
    assert np.array_equal(add_noise(x[order], 0.25, key=KEY, run=1, indices=order), straight[order])


def test_number_of_threads(kernel: str) -> None:
    x = torch.from_numpy(random_images((7, 61, 67, 3)))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            kwargs = {"key": KEY, "run": 1, "indices": range(7)}
            results.append(
                (
                    add_noise(x, 1.0, **kwargs),
                    to_model_input(x, 1.0, 0.2, **kwargs, channels_last=False),
                    to_model_input(x, 1.0, 0.2, **kwargs, channels_last=True),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@given(long=st.integers(1, 3000), short=st.integers(1, 3000), sigma=SIGMAS)
def test_a_shorter_image_has_a_prefix_of_a_longer_ones_noise(long: int, short: int, sigma: float) -> None:
    draws = [
        add_noise(np.zeros((1, n, 1, 1), np.uint8), sigma, key=KEY, run=3, indices=[11]).ravel() for n in (long, short)
    ]
    common = min(long, short)
    assert np.array_equal(draws[0][:common], draws[1][:common])


def test_every_part_of_the_address_matters() -> None:
    x = np.zeros((1, 8, 8, 3), np.uint8)
    address = {"key": KEY, "run": 1, "indices": [7], "test": False}
    others = [{"key": bytes(32)}, {"run": 2}, {"indices": [8]}, {"indices": [7 + 2**32]}, {"test": True}]
    draws = [add_noise(x, 0.25, **{**address, **other}).tobytes() for other in [{}, *others]]
    assert len(set(draws)) == len(draws)


def test_strided_images_are_read_where_they_lie() -> None:
    x = random_images((3, 10, 12, 3))
    flipped = x[::-1, :, ::-1]
    expected = add_noise(np.ascontiguousarray(flipped), 0.25, key=KEY, run=1, indices=[0, 1, 2])
    assert np.array_equal(add_noise(flipped, 0.25, key=KEY, run=1, indices=[0, 1, 2]), expected)
    tensor = torch.from_numpy(np.ascontiguousarray(flipped).transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)
    assert not tensor.is_contiguous()
    assert np.array_equal(add_noise(tensor, 0.25, key=KEY, run=1, indices=[0, 1, 2]).numpy(), expected)
    model_input = to_model_input(tensor, 0.25, 0.8, key=KEY, run=1, indices=[0, 1, 2])
    contiguous = to_model_input(tensor.contiguous(), 0.25, 0.8, key=KEY, run=1, indices=[0, 1, 2])
    assert torch.equal(model_input, contiguous)


def test_a_process_that_was_forked_off_has_threads_of_its_own() -> None:
    x = random_images((7, 61, 67, 3))  # NumPy's: torch itself would wait in the child
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        expected = add_noise(x, 1.0, key=KEY, run=1, indices=range(7))
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # threads that stayed behind would be waited for without end
            os._exit(not np.array_equal(add_noise(x, 1.0, key=KEY, run=1, indices=range(7)), expected))
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
