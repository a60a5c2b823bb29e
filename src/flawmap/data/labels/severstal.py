"""Severstal's csv: a row a class of a photo, pairs of start and length, counted from 1 down the columns.

Columns ImageId, ClassId, EncodedPixels, or ImageId_ClassId, EncodedPixels; a row without pixels marks nothing. The
photo's own size is meant.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from flawmap.data.images import Mask
from flawmap.data.labels.shapes import Draw, Labelled, Shape

PIXELS = "EncodedPixels"
LONGEST = 1 << 30  # letters of a cell; csv's own limit of 131 072 is passed by a large mask of many runs


def fits(text: str) -> bool:
    """Whether a text is such a csv."""
    head = (text.lstrip("\ufeff").splitlines() or [""])[0]
    return PIXELS in head and "ImageId" in head


def read(text: str, file: Path) -> list[Labelled]:
    """The photos of a file. Raises ValueError for a row that is none."""
    photos: dict[str, Labelled] = {}
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    lines = text.lstrip("\ufeff").splitlines()
    parted = max(",;\t", key=lines[0].count)  # a spreadsheet parts by semicolons or tabs
    reader = csv.DictReader(lines, delimiter=parted)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    for number, row in enumerate(reader, 2):
        if "ImageId_ClassId" in row:
            name, _, kind = (row["ImageId_ClassId"] or "").rpartition("_")
        else:
            name, kind = row.get("ImageId") or "", row.get("ClassId") or "defect"
        if not name or row.get(PIXELS) is None:
            raise ValueError(f"row {number} has no image or too few cells")
        photo = photos.setdefault(name, Labelled(name, file))
        words = row[PIXELS].split()
        if not words or words == ["-1"]:
            continue
        try:
            pairs = np.array([int(word) for word in words]).reshape(-1, 2)
        except ValueError:
            raise ValueError(f"row {number}: expected pairs of a start and a length") from None
        if (pairs < 1).any():
            raise ValueError(f"row {number}: starts and lengths are counted from 1")
        photo.shapes.append(Shape(kind, _drawn(pairs, number)))
    return list(photos.values())


def _drawn(pairs: np.ndarray[tuple[int, ...], np.dtype[np.int64]], row: int) -> Draw:
    def draw(height: int, width: int) -> Mask:
        flat = np.zeros(height * width, np.bool_)
        if int((pairs[:, 0] + pairs[:, 1] - 1).max()) > len(flat):
            raise ValueError(f"row {row} marks pixels beyond the photo of {width}x{height}")
        for start, length in pairs:
            flat[start - 1 : start - 1 + length] = True
        return np.ascontiguousarray(flat.reshape(width, height).T)

    return draw
