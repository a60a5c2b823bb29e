"""PASCAL VOC: a PNG a photo whose palette's indices are the classes; 255, VOC's void about every object, marks nothing.

In colour, without a palette, classes are told by labelmap.txt (as CVAT writes it) or VOC's own colours. A grey mask of
0 and 255 alone has two levels, and 255 is the defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawmap.data.labels.shapes import Labelled, Shape

VOID = 255
VOID_COLOUR = (224, 224, 192)
NAMES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
         "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
         "tvmonitor")  # fmt: skip
Colour = tuple[int, int, int]


def read(file: Path, labels: Mapping[Colour, str]) -> list[Labelled]:
    """The photo of a mask; `labels`: names by colour, of labelmap.txt. Raises OSError, ValueError."""
    with Image.open(file) as image:
        image.load()
        palette = image.getpalette() if image.mode == "P" else None
        if image.mode in ("1", "L", "P", "I;16", "I"):
            values, named = np.asarray(image).astype(np.int64), _by_index(palette, labels)
        elif image.mode in ("RGB", "RGBA"):
            values, named = _by_colour(np.asarray(image.convert("RGB")), labels)
        else:
            raise ValueError(f"a PNG of mode {image.mode} holds no classes")
    present = [int(value) for value in np.unique(values) if value]
    void = present and VOID in present and (palette is not None or len(present) > 1)
    if len(present) > 64:
        raise ValueError(f"it holds {len(present)} values, more than classes; it is a photo, or was saved as a JPEG")
    shapes = [
        _shape(named.get(value, str(value)), values == value) for value in present if not (void and value == VOID)
    ]
    remark = f"void edges (255) mark nothing: {int((values == VOID).sum())} pixels" if void else ""
    return [Labelled(file.stem, file, shapes, values.shape, stem=True, remark=remark)]


def label_map(text: str) -> dict[Colour, str]:
    """Names by colour of a labelmap.txt: lines `name:r,g,b:parts:actions`. Raises ValueError."""
    found: dict[Colour, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, colour, *_ = line.split(":")
            red, green, blue = (int(value) for value in colour.split(","))
            found[red, green, blue] = name.strip()
    return found


def colour_of(index: int) -> Colour:
    """VOC's colour of a class: its bits, spread over the highest bits of red, green and blue."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> 3 * bit & 1) << 7 - bit
        green |= (index >> 3 * bit + 1 & 1) << 7 - bit
        blue |= (index >> 3 * bit + 2 & 1) << 7 - bit
    return red, green, blue


def _shape(name: str, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Shape:
    return Shape(name, lambda height, width: mask)


def _by_index(palette: list[int] | None, labels: Mapping[Colour, str]) -> dict[int, str]:
    if palette is None or not labels:
        return {}
    colours = [(palette[at], palette[at + 1], palette[at + 2]) for at in range(0, len(palette) - 2, 3)]
    return {index: labels[colour] for index, colour in enumerate(colours) if colour in labels}


def _by_colour(
    pixels: np.ndarray[Any, Any], labels: Mapping[Colour, str]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[int, str]]:
    packed = (pixels.astype(np.int64) << (16, 8, 0)).sum(axis=2)
    classes = {colour: index for index, colour in enumerate(labels)} if labels else {}
    classes = classes or {colour_of(index): index for index in range(VOID)}
    classes |= {(0, 0, 0): 0} if (0, 0, 0) not in classes else {}
    classes.setdefault(VOID_COLOUR, VOID)
    values = np.zeros(packed.shape, np.int64)
    for value in np.unique(packed):
        colour = (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255)
        if colour not in classes:
            raise ValueError(f"the colour {colour} is no class; add a labelmap.txt, or save the palette's indices")
        values[packed == value] = classes[colour]
    return values, {index: labels[colour] for colour, index in classes.items() if colour in labels}
