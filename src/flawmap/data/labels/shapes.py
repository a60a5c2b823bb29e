"""What label files hold, and how it becomes pixels: polygons, runs, ellipses and boxes.

Axes: H, W the photo's rows and columns. Pixel (row, column) covers y in [row, row + 1), x in [column, column + 1).
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flawmap.data.images import Mask
from flawmap.errors import first_line

Draw = Callable[[int, int], Mask]
LARGEST = 1e7  # of a coordinate, in pixels
OUTLINE = 2e6  # pixels of a polygon's outline, more than which no hand and no tool draws
ROWS = 256  # that boxes and ellipses are drawn of at a time


@dataclass(frozen=True)
class Shape:
    """One marked area of a class. draw: (H, W) -> its pixels; erases: it is background, laid over what came before."""

    kind: str
    draw: Draw
    erases: bool = False


@dataclass(frozen=True)
class Labelled:
    """What a label file says of one photo.

    image: its name, or path, as the file has it; stem: whether only the name without its suffix is known
    size: (H, W) as the file states it, None where it does not; remark: what was left out, "" for nothing
    """

    image: str
    source: Path
    shapes: list[Shape] = field(default_factory=list)
    size: tuple[int, int] | None = None
    stem: bool = False
    remark: str = ""


def side_of(value: Any, field: str) -> int:
    """A photo's side in pixels as a label file states it in `field`, also as text. Raises ValueError."""
    try:
        side = int(value) if not isinstance(value, bool) else 0
    except (TypeError, ValueError, OverflowError):
        side = 0
    if side < 1:
        raise ValueError(f"{field} is {str(value)[:40] if value is not None else 'null'}; expected pixels, as 640")
    return side


def points_of(values: Any, fewest: int, what: str) -> list[tuple[float, float]]:
    """Corners (x, y) of pairs or of a flat list. Raises ValueError for what are none, and for fewer than `fewest`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1 and array.size % 2 == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{what}: expected pairs of x and y")
    if not (np.abs(array) < LARGEST).all():
        raise ValueError(f"{what}: a coordinate is no number, or beyond all photos")
    if len(array) < fewest:
        raise ValueError(f"{what} has {len(array)} points, at least {fewest} are needed")
    return [(float(x), float(y)) for x, y in array]


def polygon(points: Sequence[tuple[float, float]], height: int, width: int) -> Mask:
    """Pixels inside a polygon as COCO's own tool draws it: boundary traced at 5 times the size, then filled by columns.

    Ported from rleFrPoly of cocoapi's maskApi.c (Dollár and Lin, Simplified BSD; NOTICE), and equal to it to the pixel.
    """
    scale = 5.0
    corners = np.trunc(scale * np.asarray(points, np.float64) + 0.5).astype(np.int64)
    corners = np.vstack([corners, corners[:1]])
    if np.abs(np.diff(corners, axis=0)).max(axis=1).sum() > scale * OUTLINE:
        raise ValueError("a polygon's outline is longer than that of any on a photo")
    us, vs = [], []
    for (xs, ys), (xe, ye) in itertools.pairwise(corners):
        dx, dy = abs(int(xe - xs)), abs(int(ye - ys))
        flip = (dx >= dy and xs > xe) or (dx < dy and ys > ye)
        if flip:
            xs, xe, ys, ye = xe, xs, ye, ys
        steps = np.arange(max(dx, dy) + 1)
        t = steps[::-1] if flip else steps
        if dx >= dy:
            slope = (ye - ys) / dx if dx else 0.0
            us.append(t + xs)
            vs.append(np.trunc(ys + slope * t + 0.5).astype(np.int64))
        else:
            vs.append(t + ys)
            us.append(np.trunc(xs + (xe - xs) / dy * t + 0.5).astype(np.int64))
    u, v = np.concatenate(us), np.concatenate(vs)
    moved = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.where(u[moved] < u[moved - 1], u[moved], u[moved] - 1) + 0.5) / scale - 0.5
    y = (np.minimum(v[moved], v[moved - 1]) + 0.5) / scale - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[kept], 0, height)).astype(np.int64)
    toggles = np.zeros(height * width + 1, np.uint8)
    np.bitwise_xor.at(toggles, x[kept].astype(np.int64) * height + rows, 1)
    inside = np.bitwise_xor.accumulate(toggles[: height * width])
    return np.ascontiguousarray(inside.reshape(width, height).T.view(np.bool_))


def run_lengths(counts: Sequence[int], size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Lengths of runs of False and True in turn, False first. Raises ValueError unless they fill `size` exactly."""
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any():
        raise ValueError("the runs are no lists of lengths")
    if (filled := sum(lengths.tolist())) != size:  # Python's numbers: made-up lengths would wrap around
        raise ValueError(f"the runs come to {filled} pixels, not to {size}")
    return lengths


def runs(lengths: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The pixels of `run_lengths`: (size,) bool."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


@contextmanager
def opened_png(source: Path | bytes) -> Iterator[Image.Image]:
    """A PNG as Pillow reads it, palette and all. Raises ValueError for one that is damaged or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half the pixels that are refused
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=["PNG"])
            image.load()
    except Image.DecompressionBombError:
        raise ValueError("it is larger than any photo that can be read") from None
    except UnidentifiedImageError:
        raise ValueError("no PNG, or a damaged one") from None
    except Exception as problem:  # Pillow raises many kinds
        raise ValueError(f"a damaged PNG: {first_line(problem)}") from problem
    with image:
        yield image


def box(left: float, top: float, right: float, bottom: float, height: int, width: int, angle: float = 0.0) -> Mask:
    """Pixels whose middle lies in a box, turned by `angle` degrees clockwise about its middle."""
    cx, cy = (left + right) / 2, (top + bottom) / 2
    mask = np.zeros((height, width), np.bool_)
    for rows, across, down in _axes(cx, cy, angle, height, width):
        mask[rows] = (np.abs(across) <= abs(right - left) / 2 + 1e-9) & (np.abs(down) <= abs(bottom - top) / 2 + 1e-9)
    return mask


def ellipse(cx: float, cy: float, rx: float, ry: float, height: int, width: int, angle: float = 0.0) -> Mask:
    """Pixels whose middle lies in an ellipse of half axes rx, ry, turned by `angle` degrees clockwise."""
    if not (rx > 0 and ry > 0):
        raise ValueError("an ellipse has no size")
    mask = np.zeros((height, width), np.bool_)
    for rows, across, down in _axes(cx, cy, angle, height, width):
        mask[rows] = (across / rx) ** 2 + (down / ry) ** 2 <= 1 + 1e-9
    return mask


def turned_corners(left: float, top: float, width: float, height: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a box turned clockwise by `angle` degrees about its upper left corner."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(left + c * x - s * y, top + s * x + c * y) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]


def _axes(
    cx: float, cy: float, angle: float, height: int, width: int
) -> Iterator[tuple[slice, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Some rows at a time, and how far the middles of their pixels lie from (cx, cy) along axes turned by `angle`."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x = np.arange(width)[None, :] + 0.5 - cx
    for top in range(0, height, ROWS):
        rows = slice(top, min(top + ROWS, height))
        y = np.arange(rows.start, rows.stop)[:, None] + 0.5 - cy
        yield rows, c * x + s * y, c * y - s * x
