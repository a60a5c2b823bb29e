"""Defect regions of a map: connected areas above a threshold, as boxes and polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flawmap.data.images import components, outlines

MIN_AREA = 4  # pixels; smaller specks are noise of the map


@dataclass(frozen=True)
class Region:
    """One connected area.

    box: x, y, width, height in pixels; polygon: its outer contour as [x, y] points; area: in pixels;
    peak, mean: of the map inside, in [0, 1]
    """

    box: tuple[int, int, int, int]
    polygon: list[list[int]]
    area: int
    peak: float
    mean: float


def find_regions(
    map_: np.ndarray[Any, np.dtype[np.float32]], threshold: float, min_area: int = MIN_AREA
) -> list[Region]:
    """Regions of a map (H, W) where it exceeds `threshold`, largest peak first.

    Pixels touching at a corner belong together. Areas under `min_area` pixels are left out. A map holds numbers, NaN
    is a mistake of the program (AssertionError).
    """
    assert np.isfinite(map_).all(), "a map holds numbers"
    above = map_ > threshold
    rows, columns = (np.flatnonzero(above.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return []
    # Only what surrounds them is labelled: the labels of a large image would take more memory than its map.
    down, across = int(rows[0]), int(columns[0])
    numbers, found = components(above[down : rows[-1] + 1, across : columns[-1] + 1])
    regions = []
    for number, (x, y, width, height, area) in enumerate(found, 1):
        if area < min_area:
            continue
        inside = numbers[y : y + height, x : x + width] == number
        top, left = down + y, across + x
        values = map_[top : top + height, left : left + width][inside]
        # Holes do not cut the outer contour; one connected area has one.
        polygon = max(outlines(inside), key=len) + np.array([left, top], np.int32)
        box = (left, top, width, height)
        regions.append(Region(box, polygon.tolist(), area, float(values.max()), float(values.mean())))
    return sorted(regions, key=lambda region: (-region.peak, -region.area))
