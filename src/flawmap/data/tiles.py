"""Tiles of a large image: where they lie, how they are cut, and with what weights their maps become one.

Tiles overlap by at least a given share, lie evenly, and the outer ones end at the image's borders. In an overlap one
tile's weight falls as the other's rises, along sin² (a Hann window's flank): all weights of a pixel add up to 1, those
at a tile's own border are next to 0, where a network sees least around it, and the sum has no seam.

Axes: H, W rows and columns of the image; h, w of a tile; T tiles along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flawmap.config import ImageSettings
from flawmap.data.images import Mask, Stored, resize_pixels

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Tile(NamedTuple):
    """One tile: its first row and column in the image, and its weights (h,) down and (w,) across."""

    top: int
    left: int
    down: Floats
    across: Floats

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns in the image."""
        return slice(self.top, self.top + len(self.down)), slice(self.left, self.left + len(self.across))

    @property
    def weights(self) -> Floats:
        """Its weights (h, w)."""
        return self.down[:, None] * self.across


@dataclass(frozen=True)
class Grid:
    """The tiles of an image (H, W), each `tile` = (h, w) pixels, overlapping by at least `overlap` of their side.

    An image smaller than a tile has one tile along that axis, cut short at the image's end.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    overlap: float

    def __iter__(self) -> Iterator[Tile]:
        """Row by row, from the top left."""
        tops, lefts = (
            axis_starts(length, side, self.overlap) for length, side in zip(self.shape, self.tile, strict=True)
        )
        down, across = (
            axis_weights(starts, min(side, length))
            for starts, side, length in zip((tops, lefts), self.tile, self.shape, strict=True)
        )
        for top, weights in zip(tops, down, strict=True):
            for left, others in zip(lefts, across, strict=True):
                yield Tile(top, left, weights, others)

    def touching(self, inside: Mask | None) -> Iterator[Tile]:
        """The tiles that hold a True pixel of `inside` (H, W); all of them for None."""
        return (tile for tile in self if inside is None or inside[tile.place].any())


def axis_starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of tiles of `side` that cover `length` pixels, evenly, overlapping by at least `overlap` of it."""
    if length <= side:
        return [0]
    step = max(1, side - math.ceil(side * overlap))
    count = 1 + math.ceil((length - side) / step)
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


def axis_weights(starts: list[int], side: int) -> list[Floats]:
    """Weights (side,) of each tile along an axis; those of a pixel add up to 1."""
    middle = np.arange(side, dtype=np.float64) + 0.5
    windows = []
    for number, start in enumerate(starts):
        window = np.ones(side)
        if number > 0:
            window *= _flank(middle, starts[number - 1] + side - start)
        if number + 1 < len(starts):
            window *= _flank(middle, start + side - starts[number + 1])[::-1]
        windows.append(window)
    total = np.zeros(starts[-1] + side)  # 1 but for rounding where two tiles overlap, less where three do
    for start, window in zip(starts, windows, strict=True):
        total[start : start + side] += window
    return [
        (window / total[start : start + side]).astype(np.float32) for start, window in zip(starts, windows, strict=True)
    ]


def _flank(middle: np.ndarray[Any, np.dtype[np.float64]], reach: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """sin² from 0 at the border to 1 at `reach` pixels."""
    return np.asarray(np.sin(np.clip(middle / max(reach, 1), 0, 1) * (math.pi / 2)) ** 2, np.float64)


def at_scale(pixels: Stored, settings: ImageSettings) -> Stored:
    """An image (H, W, 3) of `images.read_pixels` at the scale at which it is cut into tiles, in its own depth."""
    height, width = (max(1, round(side * settings.scale)) for side in pixels.shape[:2])
    return resize_pixels(pixels, height, width, settings.shrink)


def cut(pixels: Stored, top: int, left: int, height: int, width: int) -> Stored:
    """The window (height, width, C) of an image (H, W, C) that begins at row `top` and column `left`.

    What lies beyond the image mirrors it. Only the window is copied.
    """
    rows, columns = mirrored(top, height, pixels.shape[0]), mirrored(left, width, pixels.shape[1])
    if rows[-1] - rows[0] + 1 == height and columns[-1] - columns[0] + 1 == width:
        return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(pixels[rows[:, None], columns])


def mirrored(start: int, count: int, length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices start … start + count - 1 folded into 0 … length - 1; the border pixel is not repeated."""
    folded = np.arange(start, start + count) % max(2 * (length - 1), 1)
    return np.minimum(folded, 2 * (length - 1) - folded) if length > 1 else np.zeros(count, np.int64)
