"""A photo as the network sees it: whole at the network's size, or tile by tile, by `image.policy`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flawmap.config import ImageSettings
from flawmap.data.dataset import network_input
from flawmap.data.images import Mask, Stored, read_pixels, to_float
from flawmap.data.scope import Scope
from flawmap.data.tiles import Grid, at_scale, cut
from flawmap.data.white import White


def pictures_of(
    path: Path, settings: ImageSettings, scope: Scope, limit: int = 0, white: White | None = None
) -> Iterator[tuple[Tensor, Mask | None]]:
    """What the network sees of a file, (1, 3, h, w) float32, and what of it counts, (h, w), None for all.

    Of a photo cut into tiles, each tile that holds something that counts, or about `limit` of them, evenly. `white`:
    how 16 bits are read; None is as the settings say. Raises ImageError for a file that is no image, and for one that
    `white` or the ignore mask does not fit.
    """
    yield from pictures_in(read_pixels(path, white or White.of(settings)), str(path), settings, scope, limit)


def pictures_in(
    pixels: Stored, name: str, settings: ImageSettings, scope: Scope, limit: int = 0
) -> Iterator[tuple[Tensor, Mask | None]]:
    """The same of an image as it is stored, (H, W, 3) uint8, uint16 or float32; `name` is used in messages."""
    height, width = settings.height, settings.width
    scope.check(pixels.shape, name)
    if settings.policy == "resize":
        yield network_input(to_float(pixels), settings)[None], scope.inside(height, width)
        return
    pixels = at_scale(pixels, settings)
    shape = (pixels.shape[0], pixels.shape[1])
    inside = scope.inside(*shape)
    tiles = list(Grid(shape, (height, width), settings.overlap).touching(inside))
    step = max(1, len(tiles) // limit) if limit else 1
    for tile in tiles[step // 2 :: step]:
        seen = to_float(cut(pixels, tile.top, tile.left, height, width))
        counts = None if inside is None else cut(inside[:, :, None], tile.top, tile.left, height, width)[:, :, 0]
        yield torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None], counts
