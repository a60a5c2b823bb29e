"""Training tiles drawn from large images, of which none has to be in memory.

Each image is decoded once, at the start, which finds every broken file before the first step. Its pixels go, at the
network's scale and in the file's own depth, into one temporary file; a tile is then read from there, row by row. The
file has no name: it lies in the folder of the training and is gone with the process, however that ends. The system
keeps as much of it in memory as there is room. Images that do not fit the limit are decoded anew for each tile.

Axes: B tiles, H, W rows and columns of an image at the network's scale; h, w of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.config import ImageSettings
from flawmap.data.dataset import random_crops, random_rotations
from flawmap.data.images import Stored, read_pixels, to_float
from flawmap.data.scope import Scope
from flawmap.data.spare import SpareFile
from flawmap.data.tiles import at_scale, mirrored
from flawmap.data.white import White


class Kept(NamedTuple):
    """Where an image (H, W, 3) lies in the temporary file: first byte (None: it does not), type, channels held."""

    shape: tuple[int, int]
    start: int | None
    dtype: np.dtype[Any]
    channels: int


class GoodTiles:
    """The training images, cut into tiles of `settings.height` by `settings.width` where they are drawn.

    `folder`: where the temporary file lies; `disk_bytes`: the most it may hold. Raises ImageError for a broken file or
    one that the ignore mask does not fit, ConfigError when nothing of an image counts.
    """

    def __init__(
        self, paths: Sequence[Path], settings: ImageSettings, scope: Scope, folder: Path, disk_bytes: int
    ) -> None:
        self.paths, self.settings, self.scope = list(paths), settings, scope
        self._tile = (settings.height, settings.width)
        self.file = SpareFile(folder, disk_bytes)
        self.decoded = 0  # how often a file was decoded
        self.kept = [self._keep(self.read(path)) for path in self.paths]
        self._rows: dict[tuple[int, int], np.ndarray[Any, Any]] = {}  # how many pixels count up to each row

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def left_out(self) -> int:
        """Images that are not in the temporary file."""
        return sum(kept.start is None for kept in self.kept)

    def read(self, path: Path) -> Stored:
        """An image file at the network's scale: (H, W, 3) uint8, uint16 or float32."""
        pixels = read_pixels(path, White.of(self.settings))
        self.decoded += 1
        self.scope.check(pixels.shape, str(path))
        return at_scale(pixels, self.settings)

    def _keep(self, pixels: Stored) -> Kept:
        self.scope.inside(pixels.shape[0], pixels.shape[1])  # refused now when nothing counts
        held = pixels[:, :, :1] if pixels.strides[2] == 0 else pixels  # grey
        try:
            start = self.file.keep(held)
        except OSError:  # the disk is full
            start = None
        return Kept((pixels.shape[0], pixels.shape[1]), start, pixels.dtype, held.shape[2])

    def window(self, index: int, top: int, left: int, height: int, width: int) -> Stored:
        """A window (height, width, 3) of image `index`; what lies beyond the image mirrors it."""
        kept = self.kept[index]
        rows, columns = mirrored(top, height, kept.shape[0]), mirrored(left, width, kept.shape[1])
        if kept.start is None:
            return np.asarray(self.read(self.paths[index])[rows[:, None], columns])
        first, count = int(columns.min()), int(columns.max() - columns.min()) + 1
        pixel = kept.dtype.itemsize * kept.channels
        lines = {
            row: self.file.read(kept.start + (row * kept.shape[1] + first) * pixel, count * pixel)
            for row in set(rows.tolist())
        }
        held = np.frombuffer(b"".join(lines[row] for row in rows.tolist()), kept.dtype)
        held = held.reshape(height, count, kept.channels)[:, columns - first]
        return np.broadcast_to(held, (height, width, 3))

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        *,
        rotate: float,
        degrees: float = 90.0,
        border: str = "zeros",
        crop: int = 0,
    ) -> Tensor:
        """`count` tiles drawn with replacement, a share `rotate` of them rotated: (B, 3, h, w) float32 in [0, 1].

        An image is drawn, then a pixel of its scope, then a tile that holds it. What turns into a rotated tile is the
        image around it; only beyond the image is it black or mirrored (`border`, `degrees` and `crop` as in
        `dataset.GoodImages.draw`).
        """
        height, width = self._tile
        spare = math.ceil((math.hypot(height, width) - min(height, width)) / 2) if rotate > 0 and degrees > 0 else 0
        windows = []
        for index in torch.randint(len(self), (count,), generator=generator).tolist():
            top, left = self._place(index, torch.rand(4, generator=generator, dtype=torch.float64).tolist())
            windows.append(self._around(index, top, left, spare, black=border == "zeros"))
        turned = random_rotations(torch.stack(windows), generator, rotate, degrees, border)
        return random_crops(turned[:, :, spare : spare + height, spare : spare + width], generator, crop)

    def _place(self, index: int, draws: Sequence[float]) -> tuple[int, int]:
        """First row and column of a tile that holds a pixel of the scope; `draws`: 4 numbers in [0, 1)."""
        shape = self.kept[index].shape
        inside = self.scope.inside(*shape)
        if inside is None:
            pixel = [int(draw * side) for draw, side in zip(draws, shape, strict=False)]
        else:
            if shape not in self._rows:
                self._rows[shape] = inside.sum(axis=1).cumsum()
            counts = self._rows[shape]
            row = int(np.searchsorted(counts, int(draws[0] * counts[-1]), side="right"))
            columns = np.flatnonzero(inside[row])
            pixel = [row, int(columns[int(draws[1] * len(columns))])]
        place = []
        for draw, at, side, tile in zip(draws[2:], pixel, shape, self._tile, strict=True):
            first, last = max(0, at - tile + 1), max(0, min(at, side - tile))
            place.append(first + int(draw * (last - first + 1)) if last > first else last)
        return place[0], place[1]

    def _around(self, index: int, top: int, left: int, spare: int, black: bool) -> Tensor:
        """A tile and `spare` pixels on each side of it: (3, h + 2 spare, w + 2 spare)."""
        height, width = (side + 2 * spare for side in self._tile)
        pixels = np.require(to_float(self.window(index, top - spare, left - spare, height, width)), requirements="W")
        if black:  # beyond the image, but for what fills up an image smaller than a tile
            bottom, right = (max(side, tile) for side, tile in zip(self.kept[index].shape, self._tile, strict=True))
            pixels[: max(0, spare - top)] = 0
            pixels[:, : max(0, spare - left)] = 0
            pixels[bottom - top + spare :] = 0
            pixels[:, right - left + spare :] = 0
        return torch.from_numpy(pixels).permute(2, 0, 1)
