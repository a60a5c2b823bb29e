"""COCO: one JSON for many photos, polygons and runs, drawn to the pixel as COCO's own tool does (pycocotools 2.0.11).

The polygons of an annotation are joined. Runs, compressed or not, are by columns and keep holes. An annotation with a
box alone marks the whole box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import Mask
from flawmap.data.labels.shapes import Draw, Labelled, Shape, points_of, polygon, run_lengths, runs, side_of


def fits(document: Any) -> bool:
    """Whether a JSON document is COCO's."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def read(document: dict[str, Any], file: Path) -> list[Labelled]:
    """The photos of a file. Raises KeyError, TypeError, ValueError for what is no COCO."""
    kinds = {each["id"]: str(each["name"]) for each in document.get("categories") or []}
    photos: dict[Any, Labelled] = {}
    for each in document["images"]:
        size = None
        if "height" in each and "width" in each:
            height, width = (side_of(each[side], f"{side} of image {each['id']}") for side in ("height", "width"))
            size = height, width
        photos[each["id"]] = Labelled(str(each["file_name"]).replace("\\", "/"), file, [], size)
    for number, each in enumerate(document["annotations"], 1):
        if each["image_id"] not in photos:
            raise ValueError(f"annotation {number} is of image {each['image_id']}, which is not in the file")
        kind = each.get("category_id")
        draw = _drawn(each, photos[each["image_id"]].size, f"annotation {each.get('id', number)}")
        photos[each["image_id"]].shapes.append(Shape(kinds.get(kind, str(kind)), draw))
    return list(photos.values())


def _drawn(annotation: dict[str, Any], size: tuple[int, int] | None, name: str) -> Draw:
    marked = annotation.get("segmentation")
    if isinstance(marked, dict):
        told = (side_of(marked["size"][place], f"{name}: size") for place in range(2))
        return _runs(marked["counts"], (next(told), next(told)), size, name)
    if isinstance(marked, list) and marked:
        rings = [points_of(ring, 3, f"{name}: a polygon") for ring in ([marked] if _flat(marked) else marked)]
        return lambda height, width: _joined(rings, height, width)
    if annotation.get("bbox"):
        left, top, across, down = (float(value) for value in annotation["bbox"])
        corners = [(left, top), (left, top + down), (left + across, top + down), (left + across, top)]
        points_of(corners, 4, f"{name}: its box")
        return lambda height, width: polygon(corners, height, width)
    raise ValueError(f"{name} has neither a segmentation nor a box")


def _flat(ring: list[Any]) -> bool:
    return not isinstance(ring[0], list)


def _runs(counts: Any, size: tuple[int, int], stated: tuple[int, int] | None, name: str) -> Draw:
    if stated is not None and size != stated:
        raise ValueError(f"{name}: its runs are of {size[1]}x{size[0]} pixels, the image of {stated[1]}x{stated[0]}")
    lengths = decoded(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
    filled = run_lengths(lengths, size[0] * size[1])

    def draw(height: int, width: int) -> Mask:
        if (height, width) != size:
            raise ValueError(f"{name}: its runs are of {size[1]}x{size[0]} pixels, the photo of {width}x{height}")
        return np.ascontiguousarray(runs(filled).reshape(width, height).T)

    return draw


def _joined(rings: list[list[tuple[float, float]]], height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.bool_)
    for ring in rings:  # one at a time: there may be thousands
        mask |= polygon(ring, height, width)
    return mask


def decoded(counts: str | bytes) -> list[int]:
    """Lengths of runs from COCO's compressed text (rleFrString of maskApi.c): 5 bits a letter, differences of two back.

    Raises ValueError for text that ends within a number.
    """
    letters = counts.encode("ascii") if isinstance(counts, str) else counts
    lengths: list[int] = []
    at = 0
    while at < len(letters):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(letters):
                raise ValueError("its runs are cut short")
            letter = letters[at] - 48
            if not 0 <= letter < 64:
                raise ValueError("its runs hold letters that are none of COCO's")
            value |= (letter & 31) << shift
            more, shift, at = bool(letter & 32), shift + 5, at + 1
            if not more and letter & 16:
                value |= -1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    return lengths
