"""Label Studio's JSON: brush strokes as runs of its own, polygons, boxes and ellipses in percent of the sides.

Runs are decoded as label-studio-converter 0.0.59 does (brush.decode_rle): a stream of bits, an RGBA picture, whose
alpha of half or more marks the area. Polygons and boxes are drawn as COCO's tool draws them; of ellipses, the pixels
whose middle is inside. Annotations that were cancelled count for nothing; several of one photo are joined. Keypoints,
unfinished polygons and regions of other kinds mark no area: they are counted and left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from flawmap.data.images import Mask
from flawmap.data.labels.shapes import Draw, Labelled, Shape, ellipse, points_of, polygon, side_of, turned_corners

_BY_TYPE = {"brush": "rle", "polygon": "points", "ellipse": "radiusX", "rectangle": "width", "magicwand": "rle"}
# What is said of a photo or of an area, which is listed by itself; it may repeat the area's place.
_NO_REGIONS = frozenset({"choices", "relation", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise"})
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # before the name of an uploaded photo


def fits(document: Any) -> bool:
    """Whether a JSON document is a list of Label Studio's tasks."""
    tasks = document if isinstance(document, list) else []
    full = all(
        isinstance(task, dict) and "data" in task and isinstance(task.get("annotations"), list) for task in tasks
    )
    return bool(tasks) and (full or all(isinstance(task, dict) and bool(_short(task)) for task in tasks))


def read(document: list[dict[str, Any]], file: Path) -> list[Labelled]:
    """The photos of a file. Raises KeyError, TypeError, ValueError for what Label Studio does not write."""
    photos = []
    for task in document:
        shapes: list[Shape] = []
        size: tuple[int, int] | None = None
        others: Counter[str] = Counter()
        for area in _areas(task):
            value = area.get("value", area)
            key = _form(area, value)
            if key is None:
                others[_said(area, value)] += 1
                continue
            size = (
                side_of(area["original_height"], "original_height"),
                side_of(area["original_width"], "original_width"),
            )
            shapes.append(Shape(_kind(value), _drawn(key, value, size)))
        what = ", ".join(f"{form} ({count})" for form, count in sorted(others.items()))
        remark = f"{what}: no areas, and left out" if what else ""
        photos.append(Labelled(_image(task), file, shapes, size, remark=remark))
    return photos


def _areas(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "data" not in task:
        yield from _short(task)
        return
    for annotation in task["annotations"]:
        if not annotation.get("was_cancelled"):
            yield from (each for each in annotation["result"] if each.get("type", "").lower() not in _NO_REGIONS)


def _short(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The areas of a task in the short form (JSON_MIN), where they are listed by the control's name."""
    lists = [value for value in task.values() if isinstance(value, list)]
    return [each for value in lists for each in value if isinstance(each, dict) and "original_width" in each]


def _image(task: dict[str, Any]) -> str:
    told = task.get("data", task)
    places = [told[key] for key in ("image", "img", "photo", "url") if isinstance(told.get(key), str)]
    places = places or [value for value in told.values() if isinstance(value, str) and "/" in value] or [""]
    address = urlsplit(str(places[0]))
    inside = parse_qs(address.query).get("d")
    path = unquote(inside[0] if inside else address.path).replace("\\", "/")
    folder, _, name = path.rpartition("/")
    if folder.startswith("/data/upload"):
        name = UPLOADED.sub("", name)
    if not name:
        raise ValueError(f"task {task.get('id', '')} names no photo")
    return f"{folder}/{name}".lstrip("/")


def _form(area: dict[str, Any], value: dict[str, Any]) -> str | None:
    """The key that tells how an area is drawn; None for what marks none: keypoints, unfinished polygons, others.

    Raises KeyError for a brush, polygon, box or ellipse that lacks what it is drawn by.
    """
    said = area.get("type", "").lower().removesuffix("labels")
    if said in _BY_TYPE:
        key = _BY_TYPE[said]
        if key not in value:
            raise KeyError(key)
    elif said or any(name.startswith("keypoint") for name in value):
        return None
    else:
        key = next((key for key in ("rle", "points", "radiusX", "width") if key in value), "")
    if key == "points" and (value.get("closed") is False or len(value["points"]) < 3):
        return None
    return key or None


def _said(area: dict[str, Any], value: dict[str, Any]) -> str:
    """What an area is called that marks none, in the plural."""
    said = area.get("type", "").lower().removesuffix("labels")
    said = said or ("keypoint" if any(name.startswith("keypoint") for name in value) else "result")
    return "unfinished polygons" if said == "polygon" or "points" in value else f"{said}s"


def _kind(value: dict[str, Any]) -> str:
    names = next((names for key, names in value.items() if key.endswith("labels") and names), ["unnamed"])
    return str(names[0])


def _drawn(key: str, value: dict[str, Any], size: tuple[int, int]) -> Draw:
    height, width = size
    if key == "rle":
        stream = np.asarray(value["rle"], dtype=np.uint8)
        return lambda rows, columns: decoded(stream, size)
    turn = float(value.get("rotation") or 0)
    if key == "points":
        points = points_of(np.asarray(value["points"], np.float64) * (width / 100, height / 100), 3, "a polygon")
        return lambda rows, columns: polygon(points, rows, columns)
    left, top = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    if key == "width":
        across, down = float(value["width"]) * width / 100, float(value["height"]) * height / 100
        corners = points_of(turned_corners(left, top, across, down, turn), 4, "a box")
        return lambda rows, columns: polygon(corners, rows, columns)
    rx, ry = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
    return lambda rows, columns: ellipse(left, top, rx, ry, rows, columns, turn)


def decoded(rle: Sequence[int] | np.ndarray[Any, np.dtype[np.uint8]], size: tuple[int, int]) -> Mask:
    """The area of a brush: bytes of a stream of bits -> (H, W) bool. Raises ValueError when it is cut or does not fit.

    32 bits: how many values; 5: bits of a value, less one; 4 times 4: bits of a run's length, less one. Then, until all
    values are there: 1 bit: whether a run of one value; 2: which length; the length, less one; one value or as many.
    """
    bits = np.unpackbits(np.asarray(rle, dtype=np.uint8))
    at = 0

    def number(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise ValueError("the brush's runs are cut short")
        found = int("".join(map(str, bits[at : at + count])), 2)
        at += count
        return found

    total, word = number(32), number(5) + 1
    lengths = [number(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"the brush holds {total} values, not 4 for each of {size[1]}x{size[0]} pixels")
    values: np.ndarray[Any, Any] = np.zeros(total, np.uint8 if word <= 8 else np.uint32)
    done = 0
    while done < total:
        run, end = number(1), done + 1 + number(lengths[number(2)])
        if end > total:
            raise ValueError("the brush's runs hold more than the picture")
        if run:
            values[done:end] = number(word)
        else:
            if at + (end - done) * word > len(bits):
                raise ValueError("the brush's runs are cut short")
            single = bits[at : at + (end - done) * word].reshape(-1, word)
            values[done:end] = single @ (1 << np.arange(word)[::-1])
            at += (end - done) * word
        done = end
    return np.asarray(values.reshape(*size, 4)[:, :, 3] > (1 << word) // 2 - 1, np.bool_)
