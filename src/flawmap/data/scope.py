"""The scope of an inspection: which pixels of an image count, by polygons and an ignore mask.

What lies outside is seen by the network, as the surroundings of what counts, and nothing more: it is neither scored
nor outlined, and no tile that holds nothing else is inspected or learnt from.

Axes: H, W rows and columns of the image file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawmap.config import ImageSettings, Polygon
from flawmap.data.images import Mask, read_mask, resize_mask
from flawmap.errors import ConfigError, ImageError

KEPT = 8  # masks remembered: data sets hold few sizes of images


class Scope:
    """The polygons of `settings` and an ignore mask (H, W), True where the image does not count; None without one."""

    def __init__(self, settings: ImageSettings, ignore: Mask | None = None) -> None:
        self.include, self.exclude, self.ignore = settings.include, settings.exclude, ignore
        self._known: dict[tuple[int, int], Mask] = {}

    @property
    def whole(self) -> bool:
        """Whether every pixel of every image counts."""
        return not self.include and not self.exclude and self.ignore is None

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raise ImageError unless the ignore mask, if there is one, fits an image of `shape` (H, W, …)."""
        if self.ignore is not None and self.ignore.shape != tuple(shape[:2]):
            height, width = self.ignore.shape
            raise ImageError(
                f"{name}: the image is {shape[1]}x{shape[0]} pixels but the ignore mask {width}x{height}; "
                "image.ignore is for images of one size"
            )

    def inside(self, height: int, width: int) -> Mask | None:
        """Which pixels count of an image that was resized to (height, width): bool, or None when all do.

        Raises ConfigError when none does.
        """
        if self.whole:
            return None
        known = self._known.get((height, width))
        if known is None:
            known = np.ones((height, width), np.bool_)
            if self.include:
                known = fill_polygons(self.include, height, width)
            if self.exclude:
                known &= ~fill_polygons(self.exclude, height, width)
            if self.ignore is not None:
                known &= ~resize_mask(self.ignore, height, width)
            if not known.any():
                raise ConfigError(
                    "image.include, image.exclude and image.ignore leave no pixel of the image to inspect"
                )
            if len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[height, width] = known
        return known


def read_scope(settings: ImageSettings) -> Scope:
    """The scope of a recipe, its ignore mask read from the file it names. Raises ImageError, ConfigError."""
    ignore = read_mask(settings.ignore) if settings.ignore else None
    scope = Scope(settings, ignore)
    if ignore is not None:
        scope.inside(*ignore.shape)  # refuses one that leaves nothing
    return scope


def fill_polygons(polygons: Sequence[Polygon], height: int, width: int) -> Mask:
    """Pixels (height, width) whose centre lies inside any of `polygons`; corners are x, y in shares of the sides."""
    filled = np.zeros((height, width), np.bool_)
    middles = np.arange(height) + 0.5
    for polygon in polygons:
        crossed = np.zeros((height, width + 1), np.uint8)  # edges between a pixel and the one to its left
        for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            rows = np.flatnonzero((y1 * height <= middles) != (y2 * height <= middles))
            if len(rows):
                x = width * (x1 + (middles[rows] / height - y1) * (x2 - x1) / (y2 - y1))
                crossed[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)] += 1
        filled |= np.cumsum(crossed, axis=1, dtype=np.uint8)[:, :width] % 2 == 1
    return filled
