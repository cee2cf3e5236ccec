"""Shapes, mirrored padding and blending."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpclean.denoise.tiling import EDGES, LEAST_TILE, Blend, Shapes, mirror_pad, tile_for

SHAPES = Shapes(batch_pixels=1 << 16)


@given(st.integers(1, 4000))
def test_tiles_cover_an_edge_and_share_at_least_the_overlap(size: int) -> None:
    starts, edge = SHAPES.starts(size), SHAPES.edge(size)
    assert starts[0] == 0 and starts[-1] + edge >= size and edge <= SHAPES.tile and edge % SHAPES.stride == 0
    if len(starts) > 1:
        assert starts[-1] + edge == size
        assert len(starts) * edge - size < len(starts) * (SHAPES.overlap + SHAPES.stride)  # and hardly more
        assert all(a + edge - b >= SHAPES.overlap for a, b in zip(starts, starts[1:], strict=False))


@given(st.integers(0, 2000))
def test_a_tile_is_of_the_sizes_that_a_network_knows(sample_size: int) -> None:
    tile = tile_for(sample_size)
    assert tile in EDGES and tile >= LEAST_TILE
    assert tile >= min(sample_size, EDGES[-1])
    assert tile == LEAST_TILE or tile < 1.5 * sample_size


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
    padded = mirror_pad(image, max(height, SHAPES.edge(height)), max(width, SHAPES.edge(width)))
    blend = Blend(SHAPES, height, width, torch.device("cpu"))
    positions = blend.positions()
    whole = None
    for count, (top, left) in enumerate(positions, 1):
        tile = padded[:, top : top + SHAPES.edge(height), left : left + SHAPES.edge(width)]
        whole = blend.add(tile, top, left)
        assert (whole is not None) == (count == len(positions))
    assert whole is not None
    torch.testing.assert_close(whole, image, rtol=0, atol=1e-6)


def test_the_blend_has_no_step_where_tiles_meet() -> None:
    # tiles that disagree by a constant must melt into each other, not meet at an edge
    blend = Blend(SHAPES, 32, 248, torch.device("cpu"))
    whole = None
    for place, (top, left) in enumerate(blend.positions()):
        whole = blend.add(torch.full((1, 32, 128), float(place)), top, left)
    assert whole is not None
    assert whole.diff(dim=2).abs().max() < 1.5 / SHAPES.overlap
