"""The host hands over the next batch while the card is busy: nothing of a batch waits for the card but its results."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dpclean.denoise.denoiser import AHEAD, Denoised, Denoiser
from dpclean.denoise.loading import find_denoiser
from tests.networks import make_denoiser
from tests.waits import Waits

KEY = bytes(range(32))


def pictures(shape: tuple[int, ...], count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 256, (count, *shape), dtype=np.uint8))


def denoised(denoiser: Denoiser, images: list[np.ndarray]) -> list[Denoised]:
    return sorted(denoiser.denoise(enumerate(images), key=KEY), key=lambda r: r.index)


@pytest.mark.parametrize("method", ["one-step", "ddim:2"])
def test_as_on_a_card_nothing_computed_is_looked_at_and_the_bits_are_those_of_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder = str(make_denoiser(tmp_path / "d"))
    grey = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(9)]  # whose mean the network does not hold
    images = [*pictures((32, 32, 3), 9), *grey, *pictures((28, 30, 1), 5), *pictures((150, 40, 3), 2)]

    def done() -> tuple[list[Denoised], list[str]]:
        denoiser = Denoiser(find_denoiser(folder), 0.25, device="cpu", batch_pixels=8 * 32 * 32, method=method)
        with Waits() as waits:
            return denoised(denoiser, images), waits.found

    looking, looks = done()
    assert looks
    monkeypatch.setitem(AHEAD, "cpu", 1)
    blind, looks = done()
    assert looks == []
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(looking, blind, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "count"), [((32, 32, 3), 40), ((28, 30, 1), 40), ((300, 200, 3), 3)])
def test_no_call_waits_for_the_card(shape: tuple[int, ...], count: int) -> None:
    denoiser = Denoiser(find_denoiser("natural"), 0.25, device="cuda", batch_pixels=16 * 32 * 32)
    images = pictures(shape, count)
    first = denoised(denoiser, images)  # tables and graphs are made
    try:
        torch.cuda.set_sync_debug_mode("error")
        again = denoised(denoiser, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(first, again, strict=True))


@pytest.mark.gpu
def test_results_and_their_batches_come_whole_and_in_order() -> None:
    denoiser = Denoiser(find_denoiser("natural"), 0.25, device="cuda", batch_pixels=16 * 32 * 32)
    batches: list[float] = []
    for count in (1, 16, 17, 50):
        batches.clear()
        results = list(denoiser.denoise(enumerate(pictures((32, 32, 3), count)), key=KEY, on_batch=batches.append))
        assert [result.index for result in results] == list(range(count))
        assert len(batches) == math.ceil(count / 16) and sum(batches) == count * 32 * 32
