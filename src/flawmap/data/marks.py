"""Marks of known size and contrast, drawn into good photos: spots and lines, by which it is told what is found.

Axes: H, W rows and columns of the image file, h, w of the window that a mark lies in.
"""

from __future__ import annotations

import math

import numpy as np

from flawmap.data.images import Image, Mask
from flawmap.errors import ConfigError

SHAPES = ("spot", "line")
LINE_WIDTH = 2.0  # pixels across a line; its size is its length
TRIES = 50  # places looked at for one where the whole mark counts

Window = tuple[slice, slice]  # rows and columns of the image


def window_of(height: int, width: int, x: float, y: float, size: float) -> Window:
    """Rows and columns, of an image (H, W), outside of which a mark of `size` at x, y covers nothing."""
    reach = size / 2 + LINE_WIDTH
    rows = slice(max(math.floor(y - reach), 0), max(min(math.ceil(y + reach), height), 0))
    columns = slice(max(math.floor(x - reach), 0), max(min(math.ceil(x + reach), width), 0))
    return rows, columns


def cover_in(window: Window, x: float, y: float, size: float, shape: str, angle: float) -> Image:
    """How much of each pixel (h, w) of a window a mark covers, in [0, 1]: its edge runs over one pixel.

    x, y: its middle in the image; size: the diameter of a `spot` or the length of a `line`, in pixels; angle: of the
    line, in radians.
    """
    rows, columns = (np.arange(side.start, side.stop, dtype=np.float32) + np.float32(0.5) for side in window)
    across, down = np.meshgrid(columns - x, rows - y)
    if shape == "spot":
        return np.asarray(np.clip(size / 2 - np.hypot(across, down) + 0.5, 0, 1), np.float32)
    along = np.abs(across * math.cos(angle) + down * math.sin(angle))
    beside = np.abs(-across * math.sin(angle) + down * math.cos(angle))
    ends = np.clip(size / 2 - along + 0.5, 0, 1) * np.clip(LINE_WIDTH / 2 - beside + 0.5, 0, 1)
    return np.asarray(ends, np.float32)


def opacity(height: int, width: int, x: float, y: float, size: float, shape: str, angle: float) -> Image:
    """`cover_in` of the whole image: (H, W)."""
    whole = np.zeros((height, width), np.float32)
    window = window_of(height, width, x, y, size)
    whole[window] = cover_in(window, x, y, size, shape, angle)
    return whole


def placed(
    height: int, width: int, size: float, shape: str, angle: float, inside: Mask | None, rng: np.random.Generator
) -> tuple[float, float, Image]:
    """(x, y, opacity) of a mark at a random place where all of it counts, or nearly, if no such place is found.

    `inside` (H, W): what counts, None for all. Raises ConfigError where there is no room.
    """
    margin = size / 2 + 1
    best: tuple[float, float, float, Image] | None = None
    for _ in range(TRIES):
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        cover = opacity(height, width, x, y, size, shape, angle)
        share = 1.0 if inside is None else float(cover[inside].sum() / cover.sum())
        if best is None or share > best[0]:
            best = (share, x, y, cover)
        if share == 1:
            break
    assert best is not None
    if best[0] < 0.5:
        raise ConfigError(f"a defect of {size:g} pixels finds no room in what counts of the photo; give smaller sizes")
    return best[1:]


def direction(image: Image, cover: Image, contrast: float, draw: float) -> float:
    """-1 for darker, 1 for brighter: by chance where the surface leaves room for both, else where there is more.

    `image` (H, W, 3) in [0, 1], or a window of it, `cover` (H, W) of the same, `draw` in [0, 1).
    """
    level = float((image.mean(2) * cover).sum() / cover.sum())
    darker, brighter = level >= contrast, 1 - level >= contrast
    if darker == brighter:
        return (-1.0 if draw < 0.5 else 1.0) if darker else (-1.0 if level > 0.5 else 1.0)
    return -1.0 if darker else 1.0
