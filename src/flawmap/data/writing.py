"""Image files out, and pixels as the bytes of one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from flawmap.data.opencv import cv2
from flawmap.data.pixels import Pixels, Stored
from flawmap.errors import ImageError


def write_image(path: str | Path, pixels: Pixels) -> None:
    """Write (H, W, 3) BGR or (H, W) uint8 in the format of the suffix, so that no reader sees half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        done, data = cv2.imencode(path.suffix.lower(), pixels)
        if not done:
            raise ImageError(f"{path}: cannot be written in this format; use .png or .jpg")
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except cv2.error as problem:
        raise ImageError(f"{path}: cannot be written in this format; use .png or .jpg") from problem
    except OSError as problem:
        with suppress(OSError):  # it may never have been there
            temporary.unlink()
        raise ImageError(f"{path}: cannot be written ({problem.strerror})") from problem


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 3) BGR, (H, W, 4) BGRA or (H, W) uint8 as the bytes of a PNG file."""
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def as_png(pixels: Stored) -> bytes:
    """An image of `read_pixels` (H, W, 3) as the bytes of a PNG file, grey as grey; float32 is rounded to 16 bits."""
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.clip(pixels, 0, 1) * 65535).astype(np.uint16)
    if pixels.strides[2] == 0:
        pixels = pixels[:, :, 0]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes())


def encode_jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """(H, W, 3) BGR or (H, W) uint8 as the bytes of a JPEG file."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
