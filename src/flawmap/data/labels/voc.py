"""PASCAL VOC: a PNG a photo whose palette's indices are the classes; 255, VOC's void about every object, marks nothing.

In colour, without a palette, classes are told by labelmap.txt (as CVAT writes it) or VOC's own colours. A grey mask of
0 and 255 alone has two levels, and 255 is the defect.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import Mask
from flawmap.data.labels.shapes import Labelled, Shape, opened_png

VOID = 255
VOID_COLOUR = (224, 224, 192)
NAMES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
         "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
         "tvmonitor")  # fmt: skip
Colour = tuple[int, int, int]


def read(file: Path, labels: Mapping[Colour, str]) -> list[Labelled]:
    """The photo of a mask; `labels`: names by colour, of labelmap.txt. Raises ValueError."""
    with opened_png(file) as image:
        palette = image.getpalette() if image.mode == "P" else None
        if image.mode in ("1", "L", "P", "I;16", "I"):
            values, named = np.asarray(image), _by_index(palette, labels)
            values = values.astype(np.uint8) if values.dtype == np.bool_ else values
        elif image.mode in ("RGB", "RGBA"):
            values, named = _by_colour(np.asarray(image.convert("RGB")), labels)
        else:
            raise ValueError(f"a PNG of mode {image.mode} holds no classes")
    present = [int(value) for value in np.unique(values) if value]
    void = present and VOID in present and (palette is not None or len(present) > 1)
    if len(present) > 64:
        raise ValueError(f"it holds {len(present)} values, more than classes; it is a photo, or was saved as a JPEG")
    kept = zlib.compress(np.searchsorted([0, *present], values).astype(np.uint8).tobytes(), 1)  # of all files at once
    shapes = [
        _shape(named.get(value, str(value)), kept, number)
        for number, value in enumerate(present, 1)
        if not (void and value == VOID)
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


def _shape(name: str, kept: bytes, number: int) -> Shape:
    def draw(height: int, width: int) -> Mask:
        return np.asarray(np.frombuffer(zlib.decompress(kept), np.uint8).reshape(height, width) == number, np.bool_)

    return Shape(name, draw)


def _by_index(palette: list[int] | None, labels: Mapping[Colour, str]) -> dict[int, str]:
    if palette is None or not labels:
        return {}
    colours = [(palette[at], palette[at + 1], palette[at + 2]) for at in range(0, len(palette) - 2, 3)]
    return {index: labels[colour] for index, colour in enumerate(colours) if colour in labels}


def _by_colour(
    pixels: np.ndarray[Any, Any], labels: Mapping[Colour, str]
) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
    packed = pixels[:, :, 0].astype(np.int32)
    for channel in (1, 2):
        packed = packed << 8 | pixels[:, :, channel]
    classes = {colour: index for index, colour in enumerate(labels)} if labels else {}
    classes = classes or {colour_of(index): index for index in range(VOID)}
    classes |= {(0, 0, 0): 0} if (0, 0, 0) not in classes else {}
    classes.setdefault(VOID_COLOUR, VOID)
    values = np.zeros(packed.shape, np.int32)
    for value in np.unique(packed):
        colour = (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255)
        if colour not in classes:
            raise ValueError(f"the colour {colour} is no class; add a labelmap.txt, or save the palette's indices")
        values[packed == value] = classes[colour]
    return values, {index: labels[colour] for colour, index in classes.items() if colour in labels}
