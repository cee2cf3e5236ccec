"""One tensor of one size from images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpclean.errors import InputError
from dpclean.train.images import prepare
from tests.data.pictures import noise


def test_images_of_the_right_size_are_not_touched() -> None:
    pixels = [noise(24, 24, seed=i) for i in range(3)]
    for size in (24, None):
        np.testing.assert_array_equal(prepare(pixels, size).numpy(), np.stack(pixels))


def test_grey_is_replicated() -> None:
    grey = noise(8, 8, 1)
    prepared = prepare([grey, noise(8, 8)], None).numpy()
    assert prepared.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(prepared[0], np.repeat(grey, 3, axis=2))


def test_the_shorter_side_is_resized_and_the_centre_kept() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200
    prepared = prepare([image, image.transpose(1, 0, 2).copy()], 20)
    assert prepared.dtype == torch.uint8 and prepared.shape == (2, 20, 20, 3)
    assert (prepared == 200).float().mean() > 0.85


def test_reducing_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert 100 < prepare([stripes], 16).float()[:, :, 2:-2].min() < 156


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_very_long_image_the_middle_is_all_that_is_looked_at(turned: bool) -> None:
    """One of 1 x 1,000,000 pixels, which is a small file, would take 600 GB to be brought to 224."""
    long = np.random.default_rng(1).integers(0, 256, (1, 1_000_000, 3)).astype(np.uint8)
    short = long[:, 499_998:500_001]  # what the centre is made of, and as much on either side
    made, expected = (prepare([image.swapaxes(0, 1) if turned else image], 224) for image in (long, short))
    assert torch.equal(made, expected)


def test_an_image_does_not_depend_on_the_others() -> None:
    pixels = [noise(13 + i % 2, 17, seed=i) for i in range(5)]
    together = prepare(pixels, 24)
    for place, image in enumerate(pixels):
        torch.testing.assert_close(prepare([image], 24)[0], together[place], rtol=0, atol=0)


@pytest.mark.parametrize("shapes", [((8, 8), (9, 9)), ((8, 9), (8, 9))])
def test_without_a_size_squares_of_one_size_are_needed(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InputError, match="squares of one size"):
        prepare([noise(*shape) for shape in shapes], None)
