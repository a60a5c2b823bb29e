"""The map and score of a large image, tile by tile (beyond DSR, which inspects images of 256x256).

A batch of tiles at a time goes through the network; their maps are added up with the weights of `data.tiles`. The score
keeps its rule: the largest mean over a square, or of the largest pixels, here of the blended detection map. That map is
never whole in memory: rows are scored as soon as no tile to come reaches them.

Memory, beside the image itself: the map, 4 bytes a pixel; what the network needs for one batch of tiles; and some rows.

Axes: B tiles, h, w their rows and columns; H, W rows and columns of the image at the network's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from flawmap.config import ImageSettings
from flawmap.data.images import Mask, Stored, resize_pixels, to_float
from flawmap.data.scope import Scope
from flawmap.data.tiles import Grid, Tile, cut
from flawmap.measure.found import Found
from flawmap.model.dsr import ScoreRule, image_score

PREVIEW = 512  # pixels, longest side of what is kept of the image and its drawings

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Blended(NamedTuple):
    """A large image as inspected.

    map: (H, W) float32 in [0, 1], at the network's scale, 0 outside the scope; score: in [0, 1]; input_image,
    object_image, general_image: (a, b, 3) float32, reduced by a whole number to at most PREVIEW a side, None when they
    were not asked for
    """

    map: Floats
    score: float
    input_image: Floats | None
    object_image: Floats | None
    general_image: Floats | None


def inspect_tiles(
    network: Callable[[Floats], Found],
    pixels: Stored,
    settings: ImageSettings,
    scope: Scope,
    *,
    rule: ScoreRule,
    batch: int = 1,
    drawings: bool = True,
) -> Blended:
    """Inspect an image (H, W, 3) of `tiles.at_scale`, `batch` tiles at a time, without those wholly outside the scope.

    `network` takes (B, 3, h, w) float32. `rule`: how a score is taken from a map. Without
    `drawings` no pictures are made.
    """
    height, width = shape = (pixels.shape[0], pixels.shape[1])
    tile_size = (settings.height, settings.width)
    inside = scope.inside(*shape)
    map_ = np.zeros(shape, np.float32)
    pictures = [Preview(shape), Preview(shape)] if drawings else []
    strip = Strip(height, width, min(settings.height, height), inside, rule)
    tiles = Grid(shape, tile_size, settings.overlap).touching(inside)
    for group in _groups(tiles, batch):
        tiles_seen = np.stack([to_float(cut(pixels, tile.top, tile.left, *tile_size)) for tile in group])
        found = network(np.ascontiguousarray(tiles_seen.transpose(0, 3, 1, 2)))
        drawn = (found.object_images, found.general_images) if drawings else ()
        for number, tile in enumerate(group):
            down, across = len(tile.down), len(tile.across)  # less than h, w where the tile is larger than the image
            map_[tile.place] += found.maps[number, :down, :across] * tile.weights
            strip.add(tile, found.detection_maps[number, :down, :across])
            for picture, images in zip(pictures, drawn, strict=True):
                picture.add(tile, images[number, :down, :across])
    if inside is not None:
        map_ *= inside
    np.clip(map_, 0, 1, out=map_)  # the weights of a pixel add up to 1 but for rounding
    score = strip.score()
    if not drawings:
        return Blended(map_, score, None, None, None)
    return Blended(map_, score, preview(pixels), pictures[0].image(), pictures[1].image())


class Strip:
    """Rows of a map (H, W) that tiles to come may still change; of those that are done, the score by `rule`.

    Tiles come row by row, `side` rows high. `inside` (H, W): pixels outside it count as 0.
    """

    def __init__(self, height: int, width: int, side: int, inside: Mask | None, rule: ScoreRule) -> None:
        self.height, self.inside, self.rule, self.top = height, inside, rule, 0
        self.square = 1 if rule.pixels else rule.side
        self.most = np.zeros(min(rule.pixels, height * width), np.float32)  # the largest so far
        self.rows = np.zeros((side, width), np.float32)  # from `top` on
        self.before = np.zeros((self.square // 2, width), np.float32)  # what means of the next rows reach back to
        self.highest = 0.0

    def add(self, tile: Tile, values: Floats) -> None:
        """Add a tile's map (h, w) with its weights; rows above the tile are done."""
        if tile.top > self.top:
            self._finish(tile.top)
        self.rows[:, tile.place[1]] += values * tile.weights

    def score(self) -> float:
        """That of the whole map, beyond whose border zeros count."""
        self._finish(self.height)
        if len(self.most):
            return float(image_score(torch.from_numpy(self.most)[None, None], self.rule))
        self._score(np.zeros((self.square // 2, self.rows.shape[1]), np.float32))
        return min(self.highest, 1.0)

    def _finish(self, upto: int) -> None:
        count = min(upto - self.top, len(self.rows))
        done, left = self.rows[:count].copy(), self.rows[count:].copy()
        if self.inside is not None:
            done *= self.inside[self.top : self.top + count]
        self._score(done)
        if gap := upto - self.top - count:  # no tile held these rows; means of zeros need not all be taken
            self._score(np.zeros((min(gap, self.square - 1), done.shape[1]), np.float32))
        self.rows[: len(left)], self.rows[len(left) :] = left, 0
        self.top = upto

    def _score(self, rows: Floats) -> None:
        if count := len(self.most):
            self.most = np.partition(np.concatenate([self.most, rows.ravel()]), -count)[-count:]
            return
        known = np.concatenate([self.before, rows])
        self.before = known[len(known) - min(len(known), self.square - 1) :]
        if len(known) < self.square:
            return
        sums = torch.from_numpy(known)[None, None]
        sums = torch.nn.functional.avg_pool2d(sums, (self.square, 1), stride=1)  # in two passes: far less work
        sums = torch.nn.functional.avg_pool2d(sums, (1, self.square), stride=1, padding=(0, self.square // 2))
        self.highest = max(self.highest, float(sums.max()))


class Preview:
    """A blended picture (H, W, 3) reduced by means of whole squares of pixels to at most PREVIEW a side.

    Black where no tile was inspected.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.factor = shape, preview_factor(shape)
        self.sums = np.zeros((*(-(-side // self.factor) for side in shape), 3), np.float32)

    def add(self, tile: Tile, values: Floats) -> None:
        """Add a tile's picture (h, w, 3) with its weights."""
        weighted = values * tile.weights[:, :, None]
        rows, columns = (_blocks(place, self.factor) for place in tile.place)
        weighted = np.add.reduceat(np.add.reduceat(weighted, rows.first, axis=0), columns.first, axis=1)
        self.sums[rows.start : rows.stop, columns.start : columns.stop] += weighted

    def image(self) -> Floats:
        """The picture as added up so far, in [0, 1]."""
        down, across = (np.full(side, self.factor) for side in self.sums.shape[:2])
        for counts, side in ((down, self.shape[0]), (across, self.shape[1])):
            counts[-1] = side - self.factor * (len(counts) - 1)
        means: Floats = self.sums / (down[:, None] * across)[:, :, None].astype(np.float32)
        return np.clip(means, 0, 1)


def preview(pixels: Stored) -> Floats:
    """An image (H, W, 3) of `images.read_pixels` reduced to the size of a `Preview`: float32 in [0, 1]."""
    factor = preview_factor((pixels.shape[0], pixels.shape[1]))
    height, width = (-(-side // factor) for side in pixels.shape[:2])
    return to_float(resize_pixels(pixels, height, width, "area"))


def preview_factor(shape: tuple[int, int]) -> int:
    """By how much pictures of an image (H, W) are reduced."""
    return -(-max(shape) // PREVIEW)


def reduced_map(map_: Floats, factor: int) -> Floats:
    """A map (H, W) reduced as a `Preview` is, but by largest values, so that what is small stays visible."""
    rows, columns = (np.arange(0, side, factor) for side in map_.shape)
    reduced: Floats = np.maximum.reduceat(np.maximum.reduceat(map_, rows, axis=0), columns, axis=1)
    return reduced


class _Blocks(NamedTuple):
    """Squares start … stop - 1 along an axis, and the first pixel of each within a tile."""

    start: int
    stop: int
    first: np.ndarray[Any, np.dtype[np.int64]]


def _blocks(place: slice, factor: int) -> _Blocks:
    start, stop = place.start // factor, -(-place.stop // factor)
    return _Blocks(start, stop, np.maximum(np.arange(start, stop) * factor - place.start, 0))


def _groups(tiles: Iterator[Tile], batch: int) -> Iterator[list[Tile]]:
    while group := list(islice(tiles, batch)):
        yield group
