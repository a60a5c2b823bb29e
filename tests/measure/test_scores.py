from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from flawmap.measure.scores import find_regions


def two_squares() -> np.ndarray:
    found = np.full((40, 60), 0.1, np.float32)
    found[5:15, 10:30] = 0.6
    found[20:26, 40:45] = 0.7
    found[22, 42] = 0.95
    return found


def filled(polygon: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in polygon], fill=1, outline=1)
    return np.asarray(canvas)


def test_regions_have_their_box_area_peak_and_mean_highest_peak_first() -> None:
    small, large = find_regions(two_squares(), 0.5)
    assert (small.box, small.area) == ((40, 20, 5, 6), 30)
    assert (large.box, large.area) == ((10, 5, 20, 10), 200)
    assert small.peak == pytest.approx(0.95)
    assert small.mean == pytest.approx((29 * 0.7 + 0.95) / 30, abs=1e-6)
    assert (large.peak, large.mean) == (pytest.approx(0.6), pytest.approx(0.6))


def test_a_polygon_filled_gives_the_region_again() -> None:
    found = two_squares()
    small, large = find_regions(found, 0.5)
    drawn = filled(small.polygon, found.shape) | filled(large.polygon, found.shape)
    assert np.array_equal(drawn, found > 0.5)


def test_a_hole_leaves_one_region_with_its_outer_contour() -> None:
    found = np.zeros((20, 20), np.float32)
    found[3:17, 3:17] = 0.9
    found[8:12, 8:12] = 0
    (ring,) = find_regions(found, 0.5)
    assert ring.area == 14 * 14 - 16
    assert sorted(ring.polygon) == [[3, 3], [3, 16], [16, 3], [16, 16]]


def test_pixels_touching_at_a_corner_are_one_region() -> None:
    (region,) = find_regions(np.eye(6, dtype=np.float32), 0.5)
    assert region.area == 6
    assert region.box == (0, 0, 6, 6)


def test_a_pixel_at_the_threshold_is_outside() -> None:
    assert find_regions(np.full((8, 8), 0.5, np.float32), 0.5) == []


def test_specks_are_left_out_unless_asked_for() -> None:
    found = np.zeros((10, 10), np.float32)
    found[4, 4:7] = 1
    assert find_regions(found, 0.5) == []
    assert [region.area for region in find_regions(found, 0.5, min_area=1)] == [3]


def test_a_region_covering_the_whole_map_reaches_its_borders() -> None:
    (region,) = find_regions(np.ones((7, 9), np.float32), 0.5)
    assert region.box == (0, 0, 9, 7)
    assert sorted(region.polygon) == [[0, 0], [0, 6], [8, 0], [8, 6]]


def test_a_map_with_nan_is_refused() -> None:
    found = two_squares()
    found[0, 0] = np.nan
    with pytest.raises(AssertionError, match="numbers"):
        find_regions(found, 0.5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_every_pixel_above_the_threshold_is_in_one_region(seed: int, threshold: float) -> None:
    found = np.random.default_rng(seed).random((12, 15)).astype(np.float32)
    regions = find_regions(found, threshold, min_area=1)
    assert sum(region.area for region in regions) == (found > threshold).sum()
    assert [region.peak for region in regions] == sorted((region.peak for region in regions), reverse=True)
    for region in regions:
        x, y, width, height = region.box
        assert all(x <= px < x + width and y <= py < y + height for px, py in region.polygon)
        assert found[y : y + height, x : x + width].max() >= region.peak >= region.mean > threshold
