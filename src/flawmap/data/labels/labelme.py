"""labelme: a JSON a photo, drawn by Pillow as labelme draws it (labelme.utils.shape_to_mask, 6.3).

A shape called `_background_` is laid over what came before, so that holes stay, and `__ignore__` marks nothing, as in
labelme's export. Outlines belong to the area.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flawmap.data.images import Mask
from flawmap.data.labels.shapes import Draw, Labelled, Shape, opened_png, points_of, side_of

BACKGROUND, IGNORED = "_background_", "__ignore__"
LINE, POINT = 10, 5  # labelme's width of a line and radius of a point, in pixels
WIDEST = 200_000  # radius of a circle, in pixels
NEEDED = {"circle": 2, "rectangle": 2, "line": 2, "linestrip": 2, "point": 1, "oriented_rectangle": 4, "polygon": 3,
          "mask": 2}  # fmt: skip


def fits(document: Any) -> bool:
    """Whether a JSON document is labelme's."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def read(document: dict[str, Any], file: Path) -> list[Labelled]:
    """The photo of a file. Raises KeyError, TypeError, ValueError for what labelme does not write."""
    name = PureWindowsPath(str(document["imagePath"])).as_posix()
    size = document.get("imageHeight"), document.get("imageWidth")
    known = None if None in size else (side_of(size[0], "imageHeight"), side_of(size[1], "imageWidth"))
    shapes = [_shape(shape) for shape in document["shapes"] if shape["label"] != IGNORED]
    return [Labelled(name, file, shapes, known)]


def _shape(shape: dict[str, Any]) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    if kind not in NEEDED:
        raise ValueError(f"no shape_type {kind} is known; export it as a polygon")
    points = points_of(shape["points"], NEEDED[kind], f"a {kind}")
    draw = _bitmap(shape["mask"], points) if kind == "mask" else _drawn(kind, points)
    return Shape(str(shape["label"]), draw, shape["label"] == BACKGROUND)


def _drawn(kind: str, points: list[tuple[float, float]]) -> Draw:
    def draw(height: int, width: int) -> Mask:
        mask = Image.new("L", (width, height))
        pen = ImageDraw.Draw(mask)
        (x0, y0), (x1, y1) = points[0], points[-1]
        if kind in ("circle", "point"):
            radius = POINT if kind == "point" else math.hypot(x1 - x0, y1 - y0)
            if radius > WIDEST:  # Pillow takes time by the radius
                raise ValueError("a circle is wider than any on a photo")
            pen.ellipse(((x0 - radius, y0 - radius), (x0 + radius, y0 + radius)), outline=1, fill=1)
        elif kind == "rectangle":
            pen.rectangle(((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))), outline=1, fill=1)
        elif kind in ("line", "linestrip"):
            pen.line(points, fill=1, width=LINE)
        else:
            pen.polygon(points, outline=1, fill=1)
        return np.asarray(mask) > 0

    return draw


def _bitmap(encoded: str, points: list[tuple[float, float]]) -> Draw:
    with opened_png(base64.b64decode(encoded)) as image:
        part = np.asarray(image) > 0
    left, top = (int(value) for value in points[0])
    return lambda height, width: placed(part, top, left, height, width)


def placed(part: Mask, top: int, left: int, height: int, width: int) -> Mask:
    """A piece of a mask at its place in a whole one; what lies outside is cut off."""
    whole = np.zeros((height, width), np.bool_)
    first_row, first_column = max(-top, 0), max(-left, 0)
    cut = part[first_row : max(height - top, 0), first_column : max(width - left, 0)]
    whole[top + first_row : top + first_row + len(cut), left + first_column : left + first_column + cut.shape[1]] = cut
    return whole
