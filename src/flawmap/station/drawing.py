"""Pictures of a part, drawn when they are asked for: its map, heat and overlay at the image's size, a thumbnail.

Axes: H, W rows and columns of the image file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import (
    Image,
    colour_map,
    encode_jpeg,
    encode_png,
    overlay,
    pixels_to_show,
    read_pixels,
    resize_image,
    resize_map,
    to_float,
    to_uint8,
)
from flawmap.data.white import may_be_deep

THUMBNAIL = 256  # pixels of the longer side
SHOWN = frozenset({"image/png", "image/jpeg", "image/bmp", "image/webp"})  # by every browser


def map_png(map_file: Path, height: int, width: int) -> bytes:
    """The map, grey, 255 for 1, at the image's size."""
    return encode_png(to_uint8(_map(map_file, height, width)))


def heat_png(map_file: Path, height: int, width: int) -> bytes:
    """The map as heat, the more opaque the higher it is, to be laid over the image."""
    found = _map(map_file, height, width)
    opacity = to_uint8(found)
    return encode_png(np.dstack([colour_map(found), opacity]))


def overlay_jpeg(
    original: Path, map_file: Path, regions: list[dict[str, Any]], outlines: bool, white: int | None = None
) -> bytes:
    """The image with heat, and outlines around its regions. `white`: full white of 16 bits, where it is known."""
    pixels = pixels_to_show(original.read_bytes(), "image", white)
    found = _map(map_file, *pixels.shape[:2])
    polygons = [np.array(region["polygon"], np.int32) for region in regions] if outlines else []
    return encode_jpeg(overlay(pixels, found, polygons))


def photo(data: bytes, kind: str, white: int | None = None, drawn: bool = False) -> tuple[bytes, str]:
    """An image for a browser, and its media type: as it is, or pixel by pixel as a PNG of 8 bits a channel.

    It is drawn where a browser shows the file dark or not at all: none of SHOWN, 16 bits, and any other that is asked
    for so (`drawn`). `kind`: its media type. `white`: full white of 16 bits, where it is known. Raises ImageError.
    """
    if not drawn and kind in SHOWN and not may_be_deep(data):
        return data, kind
    return encode_png(to_uint8(to_float(pixels_to_show(data, "image", white)))), "image/png"


def thumbnail_jpeg(data: bytes, white: int | None = None) -> bytes:
    """The image at THUMBNAIL pixels or less. `white`: full white of 16 bits, where it is known. Raises ImageError."""
    pixels = pixels_to_show(data, "image", white)
    ratio = min(1.0, THUMBNAIL / max(pixels.shape[:2]))
    height, width = (max(1, round(side * ratio)) for side in pixels.shape[:2])
    return encode_jpeg(to_uint8(resize_image(to_float(pixels), height, width, "area")), 85)


def _map(file: Path, height: int, width: int) -> Image:
    """(H, W) in [0, 1]."""
    small = to_float(read_pixels(file))[:, :, 0]
    return resize_map(np.ascontiguousarray(small), height, width)
