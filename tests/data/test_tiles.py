"""Where tiles lie, what they weigh, and what they show beyond an image's border."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawmap.config import ImageSettings
from flawmap.data.tiles import Grid, at_scale, axis_starts, axis_weights, cut, mirrored

sizes = st.integers(1, 700)
sides = st.integers(32, 128)
overlaps = st.floats(0, 0.5)


@given(sizes, sizes, sides, sides, overlaps)
def test_weights_of_every_pixel_add_up_to_one(height: int, width: int, down: int, across: int, overlap: float) -> None:
    total = np.zeros((height, width), np.float64)
    for tile in Grid((height, width), (down, across), overlap):
        assert tile.weights.min() >= 0
        total[tile.place] += tile.weights
    assert np.abs(total - 1).max() < 1e-6


@given(sizes, sides, overlaps)
def test_tiles_cover_the_axis_from_end_to_end_and_overlap_enough(length: int, side: int, overlap: float) -> None:
    starts = axis_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)
    assert all(first + side - second >= int(overlap * side) for first, second in pairwise(starts))


def test_no_more_tiles_than_needed() -> None:
    assert axis_starts(256, 256, 0.25) == [0]
    assert axis_starts(257, 256, 0.25) == [0, 1]
    assert axis_starts(448, 256, 0.25) == [0, 192]
    assert axis_starts(449, 256, 0.25) == [0, 96, 193]  # round half to even
    assert len(list(Grid((2000, 3000), (256, 256), 0.25))) == 11 * 16


@given(st.integers(129, 700), st.floats(0.1, 0.5))
def test_weights_change_slowly_from_pixel_to_pixel_and_vanish_at_inner_borders(length: int, overlap: float) -> None:
    side = 128
    starts = axis_starts(length, side, overlap)
    weights = axis_weights(starts, side)
    for number, window in enumerate(weights):
        assert np.abs(np.diff(window)).max() <= 2.3 / (overlap * side)  # sin² rises by pi/2 over its reach at most
        if number > 0:
            assert window[0] < (np.pi / 4 / (overlap * side)) ** 2 * 1.3
        if number + 1 < len(weights):
            assert window[-1] < (np.pi / 4 / (overlap * side)) ** 2 * 1.3


def test_only_tiles_that_touch_what_counts_are_given() -> None:
    inside = np.zeros((300, 400), np.bool_)
    inside[290, 10] = True
    tiles = list(Grid((300, 400), (128, 128), 0.25).touching(inside))
    assert [(tile.top, tile.left) for tile in tiles] == [(172, 0)]
    assert len(list(Grid((300, 400), (128, 128), 0.25).touching(None))) == 3 * 4


@given(st.integers(1, 40), st.integers(1, 40), st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 60))
def test_beyond_the_image_is_its_mirror(height: int, width: int, top: int, left: int, side: int) -> None:
    image = np.arange(height * width * 3, dtype=np.uint16).reshape(height, width, 3)
    wide = np.pad(image, ((100, 160), (100, 160), (0, 0)), mode="reflect")
    expected = wide[100 + top : 100 + top + side, 100 + left : 100 + left + side]
    assert np.array_equal(cut(image, top, left, side, side), expected)


def test_a_cut_inside_the_image_copies_nothing() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    assert np.shares_memory(cut(image, 3, 4, 32, 32), image)
    assert mirrored(-2, 5, 1).tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_scale_keeps_the_depth_and_resizes(dtype: type) -> None:
    image = np.zeros((100, 61, 3), dtype)
    small = at_scale(image, ImageSettings(policy="tile", scale=0.5))
    assert small.shape == (50, 30, 3)
    assert small.dtype == dtype
    assert at_scale(image, ImageSettings(policy="tile")) is image
