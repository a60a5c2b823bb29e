"""The guided filter: a map takes its outlines from the photo (He, Sun & Tang 2013; the fast one: He & Sun 2015).

Evidence of a defect lies on grids of a quarter of the photo and less, as means over several cells, and ends where the
defect ends only to within a dozen pixels. In every window the filter finds the linear function of the photo's
brightness that comes nearest to the map, and each pixel is the mean of what the windows about it say: where the photo
has an edge along which the map falls off, the map falls off there, and elsewhere it is smooth.

Axes: B images, C maps, H, W their rows and columns, h, w of cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from flawmap.model.blocks import enlarged, standardised

CELL = 4  # pixels along the side of a cell, of which window statistics are taken
WINDOW = 5  # cells along the side of a window
EVEN = 0.1  # of the photo's variance: windows that vary less are taken as even, and smoothed


def guided(maps: Tensor, photo: Tensor) -> Tensor:
    """Maps (B, C, H, W) with the outlines of a photo (B, K, H, W), whose channels are averaged: (B, C, H, W) float32.

    Sides must be multiples of CELL. Source: He & Sun 2015, "Fast guided filter".
    """
    maps, grey = maps.float(), standardised(photo.float().mean(1, keepdim=True), 1)
    small_maps, small = nn.functional.avg_pool2d(maps, CELL), nn.functional.avg_pool2d(grey, CELL)
    mean_maps, mean = _window(small_maps), _window(small)
    variance = _window(small * small) - mean * mean
    slope = (_window(small * small_maps) - mean * mean_maps) / (variance.clamp_min(0) + EVEN)
    level = mean_maps - slope * mean
    slope, level = (enlarged(_window(part), maps.shape[-2:]) for part in (slope, level))
    return slope * grey + level


def _window(cells: Tensor) -> Tensor:
    """Mean over the window about each cell, of what of it lies in the image: (B, C, h, w) -> (B, C, h, w)."""
    return nn.functional.avg_pool2d(cells, WINDOW, 1, WINDOW // 2, count_include_pad=False)
