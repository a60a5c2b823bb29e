"""Operations on pixels in memory: depth, size, outlines, drawing. Images are (H, W, 3) float32 in [0, 1], BGR, unless
said otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from flawmap.data.opencv import cv2

Image = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Stored = np.ndarray[Any, Any]  # uint8, uint16, or float32 in [0, 1]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbered = np.ndarray[Any, np.dtype[np.int32]]
Polygon = np.ndarray[Any, np.dtype[np.int32]]


def to_float(pixels: Stored) -> Image:
    """uint8, uint16 or float32 in [0, 1] -> float32 in [0, 1], a copy unless it is that already."""
    if pixels.dtype.kind == "f":
        return np.ascontiguousarray(pixels, np.float32)
    return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32, order="C")


def held_bytes(pixels: Stored) -> int:
    """Memory that an image of `read_pixels` holds, in bytes: grey is held once."""
    return pixels.nbytes // 3 if pixels.ndim == 3 and pixels.strides[2] == 0 else pixels.nbytes


def to_uint8(image: Image) -> Pixels:
    """[0, 1] -> 0…255, rounded; values outside are clipped."""
    pixels = np.empty(image.shape, np.uint8)
    for rows in bands(len(image)):
        pixels[rows] = np.clip(image[rows], 0, 1) * 255 + 0.5
    return pixels


def bands(height: int) -> Iterator[slice]:
    """Some rows at a time, so that a large image needs no copy of all of it in float32."""
    return (slice(top, top + 256) for top in range(0, height, 256))


def as_stored(image: Image, like: Stored) -> Stored:
    """An image (H, W, 3) float32 in [0, 1] in the depth of another, as a camera would store it; values are clipped."""
    if like.dtype.kind != "u":
        return np.asarray(np.clip(image, 0, 1), like.dtype)
    full = np.iinfo(like.dtype).max
    return np.asarray(np.rint(np.clip(image, 0, 1) * full), like.dtype)


def resize_image(image: Image, height: int, width: int, shrink: Literal["linear", "area"] = "linear") -> Image:
    """(H, W, 3) -> (height, width, 3). `shrink` is used when both sides become smaller, bilinear otherwise."""
    return np.asarray(resize_pixels(image, height, width, shrink), dtype=np.float32)


def resize_pixels(pixels: Stored, height: int, width: int, shrink: Literal["linear", "area"] = "linear") -> Stored:
    """`resize_image` for an image of `read_pixels`, in its own depth; grey stays 1 number a pixel."""
    if pixels.shape[:2] == (height, width):
        return pixels
    smaller = height <= pixels.shape[0] and width <= pixels.shape[1]
    method = cv2.INTER_AREA if shrink == "area" and smaller else cv2.INTER_LINEAR
    if pixels.strides[2] == 0:
        grey = cv2.resize(np.ascontiguousarray(pixels[:, :, 0]), (width, height), interpolation=method)
        return np.broadcast_to(np.asarray(grey)[:, :, None], (height, width, 3))
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method))


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """(H, W) bool -> (height, width) bool, nearest neighbour."""
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)) > 0


def resize_map(map_: Image, height: int, width: int) -> Image:
    """(H, W) float32 -> (height, width), bilinear."""
    return np.asarray(cv2.resize(map_, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def colour_map(map_: Image) -> Pixels:
    """Map (H, W) in [0, 1] -> (H, W, 3) uint8 BGR, dark to bright in equal perceived steps."""
    return np.asarray(cv2.applyColorMap(to_uint8(map_), cv2.COLORMAP_INFERNO), dtype=np.uint8)


def overlay(image: Stored, map_: Image, polygons: Sequence[Polygon]) -> Pixels:
    """The image (H, W, 3) with its map (H, W) laid over as heat and `polygons` (N, 2) drawn around it: uint8 BGR.

    Blue and yellow, told apart without red/green vision; a dark line under the bright one keeps it visible on white.
    """
    pixels = np.empty(image.shape, np.uint8)
    for rows in bands(len(image)):
        heat = colour_map(map_[rows]).astype(np.float32) / 255
        weight = np.clip(map_[rows], 0, 1)[:, :, None] * 0.6
        pixels[rows] = to_uint8(to_float(image[rows]) * (1 - weight) + heat * weight)
    thickness = max(1, round(max(image.shape[:2]) / 300))
    for colour, width in (((90, 20, 0), thickness + 2), ((0, 230, 255), thickness)):
        cv2.polylines(pixels, [np.asarray(polygon, np.int32) for polygon in polygons], True, colour, width, cv2.LINE_AA)
    return pixels


def fill_polygon(polygon: Polygon, height: int, width: int) -> Mask:
    """Pixels (height, width) inside a contour (N, 2) of x, y, and on it."""
    filled = np.zeros((height, width), np.uint8)
    cv2.fillPoly(filled, [np.asarray(polygon, np.int32)], 1)
    return filled > 0


def outlines(mask: Mask) -> list[Polygon]:
    """Outer contours of the True areas of (H, W): arrays (N, 2) of x, y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, np.int32).reshape(-1, 2) for contour in found]


def components(mask: Mask) -> tuple[Numbered, list[tuple[int, int, int, int, int]]]:
    """Connected True areas of (H, W), pixels that touch at a corner together: their numbers (H, W), from 1 on and 0
    elsewhere, and for each (x, y, width, height, area) in pixels."""
    count, numbers, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(numbers, np.int32), [tuple(row) for row in found[1:count].tolist()]
