"""Shapes, mirrored padding and blending."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpclean.denoise.tiling import LARGEST_TILE, LEAST_EDGE, LEAST_TILE, Blend, Shapes, merged, mirror_pad, tile_for

SHAPES = Shapes(batch_pixels=1 << 16, stride=4)


@given(st.integers(1, 4000))
def test_tiles_cover_an_edge_and_share_at_least_the_overlap(size: int) -> None:
    starts, lengths = SHAPES.starts(size), SHAPES.lengths(size)
    assert starts[0] == 0 and starts[-1] + lengths[-1] >= size
    assert max(lengths) <= SHAPES.tile and all(length % SHAPES.stride == 0 for length in lengths)
    if len(starts) > 1:
        assert starts[-1] + lengths[-1] == size
        assert all(
            b + length - after >= SHAPES.overlap for b, after, length in zip(starts, starts[1:], lengths, strict=False)
        )


@given(st.integers(LEAST_EDGE, 4000), st.sampled_from([4, 8, 16]))
def test_no_more_is_computed_than_covers_an_edge(size: int, stride: int) -> None:
    shapes = Shapes(batch_pixels=1 << 16, stride=stride)
    lengths = shapes.lengths(size)
    assert sum(lengths) < size + (len(lengths) - 1) * shapes.overlap + stride
    assert max(lengths) - min(lengths) <= stride


def test_common_sizes_are_computed_hardly_more_than_once() -> None:
    for size in (28, 32, 48, 64, 72, 96, 100, 128, 160, 224, 256, 300, 500, 512):
        assert (sum(SHAPES.lengths(size)) / size) ** 2 < 1.14, size


def test_few_of_a_shape_join_the_next_that_holds_them() -> None:
    waiting = {(32, 32): ["a"], (28, 28): ["b", "c"], (36, 28): ["d"], (128, 128): ["e"], (64, 64): list("fgh")}
    by_shape = {(32, 32): ["a"], (36, 28): ["d", "b", "c"], (64, 64): ["f", "g", "h"], (128, 128): ["e"]}
    assert dict(merged(waiting, 1000)) == by_shape
    assert dict(merged(waiting, 0)) == waiting
    assert list(dict(merged(waiting, 1 << 20))) == [(128, 128)]


@given(st.integers(0, 2000), st.sampled_from([4, 8, 16]))
def test_a_tile_is_hardly_larger_than_what_a_network_knows(sample_size: int, stride: int) -> None:
    tile = tile_for(sample_size, stride)
    assert tile % stride == 0 and LEAST_TILE <= tile <= LARGEST_TILE
    assert tile >= min(sample_size, LARGEST_TILE) and tile < max(sample_size, LEAST_TILE) + stride


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 90), st.integers(0, 90))
def test_padding_mirrors_and_keeps_the_image(height: int, width: int, below: int, right: int) -> None:
    image = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width)
    padded = mirror_pad(image, height + below, width + right)
    assert torch.equal(padded[:, :height, :width], image)
    # reflecting without repeating the border has the period 2 (n - 1)
    for axis, size in ((1, height), (2, width)):
        period = max(1, 2 * (size - 1))
        length = padded.shape[axis]
        if length > period:
            assert torch.equal(padded.narrow(axis, period, length - period), padded.narrow(axis, 0, length - period))
        if length > size > 1:
            assert torch.equal(padded.select(axis, size), padded.select(axis, size - 2))


@given(st.integers(1, 400), st.integers(1, 400))
def test_blending_what_was_cut_gives_the_image_back(height: int, width: int) -> None:
    image = torch.linspace(-1, 1, height * width).reshape(1, height, width)
    blend = Blend(SHAPES, height, width, torch.device("cpu"))
    places = blend.places()
    whole = None
    for count, place in enumerate(places, 1):
        window = image[:, place.top : place.top + place.height, place.left : place.left + place.width]
        whole = blend.add(mirror_pad(window, place.height, place.width), place)
        assert (whole is not None) == (count == len(places))
    assert whole is not None
    torch.testing.assert_close(whole, image, rtol=0, atol=1e-6)


def test_the_blend_has_no_step_where_tiles_meet() -> None:
    # tiles that disagree by a constant must melt into each other, not meet at an edge
    blend = Blend(SHAPES, 32, 248, torch.device("cpu"))
    whole = None
    for number, place in enumerate(blend.places()):
        whole = blend.add(torch.full((1, place.height, place.width), float(number)), place)
    assert whole is not None
    assert whole.diff(dim=2).abs().max() < 1.5 / SHAPES.overlap
