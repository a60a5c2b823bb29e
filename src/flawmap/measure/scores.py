"""Defect regions of a map: connected areas above a threshold, as boxes and polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flawmap.data.images import outlines

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
    from scipy import ndimage

    assert np.isfinite(map_).all(), "a map holds numbers"
    above = map_ > threshold
    rows, columns = (np.flatnonzero(above.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return []
    # Only what surrounds them is labelled: the labels of a large image would take more memory than its map.
    down, across = int(rows[0]), int(columns[0])
    labels, _ = ndimage.label(above[down : rows[-1] + 1, across : columns[-1] + 1], structure=np.ones((3, 3)))
    regions = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[place] == number
        area = int(inside.sum())
        if area < min_area:
            continue
        top, left = down + place[0].start, across + place[1].start
        values = map_[top : top + inside.shape[0], left : left + inside.shape[1]][inside]
        # Holes do not cut the outer contour; one connected area has one.
        polygon = max(outlines(inside), key=len) + np.array([left, top], np.int32)
        box = (left, top, inside.shape[1], inside.shape[0])
        regions.append(Region(box, polygon.tolist(), area, float(values.max()), float(values.mean())))
    return sorted(regions, key=lambda region: (-region.peak, -region.area))
