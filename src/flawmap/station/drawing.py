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
    decode_pixels,
    encode_jpeg,
    encode_png,
    overlay,
    read_pixels,
    resize_image,
    resize_map,
    to_float,
    to_uint8,
)

THUMBNAIL = 256  # pixels of the longer side


def photo_png(original: Path) -> bytes:
    """The photo as any browser shows it, 8 bits a channel, pixel by pixel. Raises ImageError."""
    return encode_png(to_uint8(to_float(read_pixels(original))))


def map_png(map_file: Path, height: int, width: int) -> bytes:
    """The map, grey, 255 for 1, at the image's size."""
    return encode_png(to_uint8(_map(map_file, height, width)))


def heat_png(map_file: Path, height: int, width: int) -> bytes:
    """The map as heat, the more opaque the higher it is, to be laid over the image."""
    found = _map(map_file, height, width)
    opacity = to_uint8(found)
    return encode_png(np.dstack([colour_map(found), opacity]))


def overlay_jpeg(original: Path, map_file: Path, regions: list[dict[str, Any]], outlines: bool) -> bytes:
    """The image with heat, and outlines around its regions."""
    pixels = read_pixels(original)
    found = _map(map_file, *pixels.shape[:2])
    polygons = [np.array(region["polygon"], np.int32) for region in regions] if outlines else []
    return encode_jpeg(overlay(pixels, found, polygons))


def thumbnail_jpeg(data: bytes) -> bytes:
    """The image at THUMBNAIL pixels or less. Raises ImageError."""
    pixels = decode_pixels(data, "image")
    ratio = min(1.0, THUMBNAIL / max(pixels.shape[:2]))
    height, width = (max(1, round(side * ratio)) for side in pixels.shape[:2])
    return encode_jpeg(to_uint8(resize_image(to_float(pixels), height, width, "area")), 85)


def _map(file: Path, height: int, width: int) -> Image:
    """(H, W) in [0, 1]."""
    small = to_float(read_pixels(file))[:, :, 0]
    return resize_map(np.ascontiguousarray(small), height, width)
