"""Pillow: what OpenCV does not decode, and EXIF data."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile

from flawmap.data.formats import Damage

# What turns or mirrors the stored pixels to the upright image, by EXIF orientation.
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}

_EXIF_MARKS = (b"eXIf", b"Raw profile type exif")
_LIMIT = threading.Lock()
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "JPEG2000")


@contextmanager
def opened(data: bytes, formats: Sequence[str] = _FORMATS) -> Iterator[Pillow.Image]:
    """The file in Pillow, with its warnings off and its size limit, lower than ours, lifted while it is opened."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _LIMIT:
            theirs, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
            try:
                image = Pillow.open(io.BytesIO(data), formats=[one for one in formats if one != "MPO"])
            finally:
                Pillow.MAX_IMAGE_PIXELS = theirs
        with image:
            yield image


def by_pillow(data: bytes, name: str, lenient: bool = False) -> np.ndarray[Any, Any]:
    """Decode what OpenCV does not (some TIFF compressions, some palettes): (H, W) or (H, W, 3 or 4), BGR(A).

    `lenient` fills what is missing.
    """
    try:
        with opened(data) as image, _lenient(lenient):
            plain = image.mode in ("L", "I;16", "F") and not image.has_transparency_data
            pixels = np.asarray(image if plain else image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except MemoryError:
        raise
    except Exception as problem:
        raise Damage(str(problem) or type(problem).__name__) from problem
    return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


@contextmanager
def _lenient(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with _LIMIT:
        theirs, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = theirs


def orientation_of(data: bytes, kind: str) -> int:
    """EXIF orientation left to apply."""
    marks = _EXIF_MARKS if kind == "PNG" else (b"Exif", b"EXIF")
    if kind in ("BMP", "PNM", "JPEG2000", "DICOM") or not any(mark in data for mark in marks):
        return 1  # Pillow would decode a whole PNG in search of it
    try:
        with opened(data) as header:
            return int(header.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on damaged EXIF, which says nothing of the pixels
        return 1
