"""YOLO segmentation: a text file a photo, a line an area: class and corners in shares of the sides.

Corners are cut to whole pixels and the area filled with its outline, as ultralytics does (polygon2mask). A line of five
numbers is a box, filled whole. Names of classes are in data.yaml or classes.txt, where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flawmap.data.images import Mask, fill_polygon
from flawmap.data.labels.shapes import Draw, Labelled, Shape


def fits(text: str) -> bool:
    """Whether a text is of lines of numbers, or empty."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return all(words[0].isdigit() and len(words) >= 5 for words in lines)


def read(text: str, file: Path, names: Mapping[int, str]) -> list[Labelled]:
    """The photo of a file. Raises ValueError for a line that is none."""
    shapes = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, values = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            raise ValueError(f"line {number} is not of numbers") from None
        if not (np.isfinite(values).all() and (values >= -0.01).all() and (values <= 1.01).all()):
            raise ValueError(f"line {number} holds values outside 0 to 1; YOLO has shares of the sides, not pixels")
        if len(values) in (4, 5):
            x, y, w, h = values[:4]
            corners = np.array([(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2),
                                (x - w / 2, y + h / 2)])  # fmt: skip
        elif len(values) < 6 or len(values) % 2:
            raise ValueError(f"line {number} has {len(values)} values; a polygon has an even number, 6 or more")
        else:
            corners = values.reshape(-1, 2)
        shapes.append(Shape(names.get(kind, str(kind)), _drawn(corners)))
    return [Labelled(file.stem, file, shapes, None, stem=True)]


def _drawn(corners: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Draw:
    def draw(height: int, width: int) -> Mask:
        return fill_polygon((corners * (width, height)).astype(np.int32), height, width)

    return draw


def class_names(text: str, suffix: str) -> dict[int, str]:
    """Names by number of data.yaml (a list or a table `names`) or classes.txt (a line a class)."""
    if suffix == ".txt":
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
    found = re.search(r"^names:[ \t]*(.*(?:\n(?:[ \t-].*|))*)", text, re.MULTILINE)
    block = "" if found is None else found[1]
    if pairs := re.findall(r"(\d+)\s*:\s*([^,}\n#]+)", block):
        return {int(number): _bare(name) for number, name in pairs}
    if block.lstrip().startswith("["):
        return dict(enumerate(_bare(name) for name in block.strip().strip("[]").split(",") if name.strip()))
    return dict(enumerate(_bare(name) for name in re.findall(r"^\s*-\s*(.+)$", block, re.MULTILINE)))


def _bare(name: str) -> str:
    return name.strip().strip("'\"")
