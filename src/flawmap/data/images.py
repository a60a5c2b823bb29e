"""Image files in: the door to `data.decoding`, and with it `data.pixels` and `data.writing`. Nothing else opens them.

A file whose pixels are missing or corrupt is refused, unless `accept_damaged` was called (`data.limits`). 16 bits are
brought to their full scale (`data.white`).

Images are (H, W, 3) float32 in [0, 1], BGR, unless said otherwise.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.by_pillow import TURNS, opened, orientation_of
from flawmap.data.decoding import decoded, is_tiff
from flawmap.data.filekinds import special
from flawmap.data.formats import pnm, tiff
from flawmap.data.header import Header, header_of
from flawmap.data.integers import whole_numbers
from flawmap.data.limits import (
    DAMAGED,
    HIDDEN,
    MAX_BYTES,
    MAX_PIXELS,
    NOTHING,
    UNHIDDEN,
    accept_damaged,
    fits,
    memory,
    remark,
    remarks,
)
from flawmap.data.pixels import (
    Image,
    Mask,
    Numbered,
    Pixels,
    Polygon,
    Stored,
    as_stored,
    bands,
    colour_map,
    components,
    fill_polygon,
    held_bytes,
    outlines,
    overlay,
    resize_image,
    resize_map,
    resize_mask,
    resize_pixels,
    to_float,
    to_uint8,
)
from flawmap.data.white import (
    FULL_SCALE,
    White,
    at_white,
    bright_in,
    largest_in,
    reach_of,
    stated_white,
    white_to_show,
)
from flawmap.data.writing import as_png, encode_jpeg, encode_png, write_image
from flawmap.errors import ImageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".pam", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dcm", ".dicom"}
)
_EXIF, _TAKEN, _FRACTION = 0x8769, 0x9003, 0x9291  # the section of EXIF data, DateTimeOriginal, SubSecTimeOriginal

__all__ = [
    "DAMAGED",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Brightness",
    "Header",
    "Image",
    "Mask",
    "MaskPixels",
    "Numbered",
    "Pixels",
    "Polygon",
    "Stored",
    "accept_damaged",
    "as_png",
    "as_stored",
    "brightness_of",
    "colour_map",
    "components",
    "decode_image",
    "decode_pixels",
    "encode_jpeg",
    "encode_png",
    "fill_polygon",
    "header_of",
    "held_bytes",
    "outlines",
    "over_black",
    "overlay",
    "pixels_to_show",
    "read_image",
    "read_mask",
    "read_mask_pixels",
    "read_pixels",
    "read_shape",
    "remarks",
    "resize_image",
    "resize_map",
    "resize_mask",
    "resize_pixels",
    "taken_at",
    "to_float",
    "to_uint8",
    "write_image",
]


def read_image(path: str | Path, white: White = FULL_SCALE) -> Image:
    """Read an image file: (H, W, 3) float32 in [0, 1], BGR.

    8 bits are divided by their full scale, 16 bits by what the file says or `white` (data/white.py); grey becomes three
    equal channels; transparent pixels are laid over black; EXIF rotation is applied. Raises ImageError, naming the
    file, when it cannot be read, is empty, truncated, damaged, no image, takes more than MAX_PIXELS or MAX_BYTES, or
    does not fit `white`.
    """
    return decode_image(_bytes_of(Path(path)), str(path), white)


def decode_image(data: bytes, name: str, white: White = FULL_SCALE) -> Image:
    """The same for the bytes of a file; `name` is used in messages."""
    with memory(name):
        return to_float(_stored(at_white(decoded(data, name, floats=True), white, name, data), name))


def read_pixels(path: str | Path, white: White = FULL_SCALE) -> Stored:
    """The same image in the depth of the file: (H, W, 3) uint8 or uint16, BGR; read-only, grey takes 1 number a pixel.

    16 bits are brought to their full scale. Transparent and floating-point images are float32 in [0, 1]. `to_float` of
    it is what `read_image` gives.
    """
    return decode_pixels(_bytes_of(Path(path)), str(path), white)


def decode_pixels(data: bytes, name: str, white: White = FULL_SCALE) -> Stored:
    """`read_pixels` for the bytes of a file; `name` is used in messages."""
    with memory(name):
        return _stored(at_white(decoded(data, name), white, name, data), name)


def _stored(pixels: np.ndarray[Any, Any], name: str) -> Stored:
    """Decoded pixels -> (H, W, 3) uint8, uint16 or float32 in [0, 1]; grey is seen three times, not held."""
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError(f"{name}: a floating-point image must lie in [0, 1]; divide it by its full scale")
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: pixels of type {pixels.dtype} are not supported; save it with 8 or 16 bits")
    if pixels.ndim == 2:
        return np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3))
    if pixels.shape[2] == 4:
        return over_black(pixels, name)
    if pixels.shape[2] != 3:
        raise ImageError(f"{name}: {pixels.shape[2]} channels are not supported; save it as grey or colour")
    return pixels


def over_black(pixels: np.ndarray[Any, Any], name: str) -> Stored:
    """(H, W, 4) of any full scale -> (H, W, 3) float32 in [0, 1]; in its own depth where all of it is opaque.

    An alpha that hides the whole picture cannot be meant: the colours are taken as they are, with a remark. Raises
    ImageError where there is nothing under it.
    """
    full = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    alpha = pixels[:, :, 3]
    if alpha.min() == full:
        return np.ascontiguousarray(pixels[:, :, :3])
    if alpha.max() <= HIDDEN * full:
        if (pixels[:, :, :3] == pixels[0, 0, :3]).all():
            raise ImageError(f"{name}: {NOTHING}")
        remark(name, UNHIDDEN)
        return np.ascontiguousarray(pixels[:, :, :3])
    image = np.empty((*pixels.shape[:2], 3), np.float32)
    for rows in bands(len(pixels)):
        part = to_float(pixels[rows])
        image[rows] = part[:, :, :3] * part[:, :, 3:]
    return image


class Brightness(NamedTuple):
    """How bright a photo is. largest: its largest pixel where it has 16 bits and states no level, else None. bright:
    what bright pixels reach, in the same counts, else as a share of full white (data/white.py)."""

    largest: int | None
    bright: float


def brightness_of(data: bytes, name: str) -> Brightness:
    """How bright the photo in the bytes of a file is; its level is not asked. Raises ImageError as `decode_pixels`."""
    with memory(name):
        pixels = decoded(data, name)
    largest = largest_in(pixels, data)
    if largest is not None and stated_white(data, largest) is None:
        return Brightness(largest, bright_in(pixels, data))
    return Brightness(None, reach_of(at_white(pixels, FULL_SCALE, name, data)))


def pixels_to_show(data: bytes, name: str, level: int | None = None) -> Stored:
    """`decode_pixels` for a person to look at, whatever the level of 16 bits; `level`: the inspection's, if known.

    Raises ImageError for what is no whole image.
    """
    with memory(name):
        pixels = decoded(data, name)
    return _stored(at_white(pixels, white_to_show(largest_in(pixels, data) or 0, level), name, data), name)


def read_shape(path: str | Path) -> tuple[int, int]:
    """Rows and columns of the image that `read_image` gives; of most files nothing is decoded. Raises ImageError."""
    data, name = _bytes_of(Path(path)), str(path)
    header = header_of(data, name)
    turn = tiff.read_page(data).orientation if header.kind == "TIFF" else orientation_of(data, header.kind)
    fits(name, header.width, header.height)
    turned = turn in TURNS and TURNS[turn][0] % 2 == 1
    return (header.width, header.height) if turned else (header.height, header.width)


def taken_at(path: str | Path) -> str:
    """Read from a photo's EXIF data when it was taken: "2026:05:06 07:08:09.12"; "" without a time or if damaged.

    Raises ImageError when the file cannot be read.
    """
    data = _bytes_of(Path(path))
    if data.startswith(b"\x89PNG") and b"eXIf" not in data:
        return ""  # Pillow would decode the whole picture in search of it
    try:
        with opened(data) as header:
            facts = header.getexif().get_ifd(_EXIF)
            time, fraction = (str(facts.get(tag, "")).strip("\0 ") for tag in (_TAKEN, _FRACTION))
    except Exception:  # Pillow raises many kinds on damaged EXIF, which says nothing of the pixels
        return ""
    return f"{time}.{fraction or 0}" if time else ""


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Mask:
    """Read a defect mask (H, W) bool, as `masks.read_mask` does."""
    from flawmap.data import masks  # which needs this module

    return masks.read_mask(path, shape)


class MaskPixels(NamedTuple):
    """A mask file as stored, upright.

    colours: (H, W) or (H, W, 3) of any number type, BGR; alpha: (H, W), None without; indices: (H, W) of a palette,
    None without; lossy: whether it is a JPEG; white_is_0: whether its file counts from white (TIFF with MinIsWhite,
    PBM); white: the value of white where the file states it, 0 where not
    """

    colours: np.ndarray[Any, Any]
    alpha: np.ndarray[Any, Any] | None
    indices: np.ndarray[Any, Any] | None
    lossy: bool
    white_is_0: bool
    white: int = 0


def read_mask_pixels(path: str | Path) -> MaskPixels:
    """Read a mask file without judging which pixels are marked. Raises ImageError as `read_image` does."""
    data = _bytes_of(Path(path))
    if is_tiff(data) and (numbers := whole_numbers(data, str(path))) is not None:
        return MaskPixels(numbers[0], None, None, False, numbers[1])
    pixels = decoded(data, str(path))
    if pnm.is_pnm(data) and not (stated := pnm.facts(data)).alpha:
        white = 0 if stated.bitmap else stated.maxval
        return MaskPixels(pnm.as_stored(pixels, stated), None, None, False, stated.bitmap, white)
    indices, white_is_0 = None, False
    try:
        with opened(tiff.with_picture_first(data, tiff.read_page(data)) if is_tiff(data) else data) as image:
            if image.mode == "P":
                indices = np.asarray(image)
            if image.format == "TIFF" and image.mode in ("1", "L", "I;16"):
                white_is_0 = image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
    except Exception:  # Pillow raises many kinds; what OpenCV decoded is good enough
        indices = None
    if indices is not None and indices.shape != pixels.shape[:2]:  # turned by its EXIF data
        indices = None
    alpha = pixels[:, :, 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    colours = pixels[:, :, :3] if pixels.ndim == 3 else pixels
    largest = largest_in(pixels, data)
    level = None if largest is None else stated_white(data, largest)
    return MaskPixels(colours, alpha, indices, data.startswith(b"\xff\xd8"), white_is_0, level or 0)


def _bytes_of(path: Path) -> bytes:
    if (what := special(path)) is not None:
        raise ImageError(f"{path} is a {what}, not a file; save the image as a file")
    try:
        data = path.read_bytes()
    except FileNotFoundError as problem:
        raise ImageError(f"{path}: there is no such file") from problem
    except PermissionError as problem:
        raise ImageError(f"{path}: no permission to read it; change its permissions") from problem
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:  # base64, perhaps
            raise ImageError(
                f"{str(path)[:60]}…: there is no such file; the name is longer than names can be"
            ) from None
        raise ImageError(f"{path}: cannot be read ({problem.strerror})") from problem
    except ValueError as problem:  # a NUL in the name
        raise ImageError(f"{str(path)!r} is not the name of a file") from problem
    if not data:
        raise ImageError(f"{path}: the file is empty; copy it again or remove it")
    return data
