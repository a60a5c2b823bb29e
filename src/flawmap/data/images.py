"""Image files in and out, and the few pixel operations that need OpenCV. No other module imports cv2.

OpenCV decodes (16-bit depth is kept); Pillow reads the header first, since OpenCV would start decoding an image of any
size and fills a truncated JPEG with grey without a word.

Images are (H, W, 3) float32 in [0, 1], BGR, unless said otherwise.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

# OpenCV reads its own limit at import; ours is checked first and names the file.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 34))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what fails is said once, by us

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from flawmap.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 200_000_000

Image = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Stored = np.ndarray[Any, Any]  # uint8, uint16, or float32 in [0, 1]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbered = np.ndarray[Any, np.dtype[np.int32]]
Polygon = np.ndarray[Any, np.dtype[np.int32]]

_LIMIT = threading.Lock()
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXIF, _TAKEN, _FRACTION = 0x8769, 0x9003, 0x9291  # the section of EXIF data, DateTimeOriginal, SubSecTimeOriginal
# What turns or mirrors the stored pixels to the upright image, by EXIF orientation.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


def read_image(path: str | Path) -> Image:
    """Read an image file: (H, W, 3) float32 in [0, 1], BGR.

    8 and 16 bits are divided by their full scale; grey becomes three equal channels; transparent pixels are laid over
    black; EXIF rotation is applied. Raises ImageError, naming the file, when it cannot be read, is empty, truncated,
    no image, or larger than MAX_PIXELS.
    """
    return decode_image(_bytes_of(Path(path)), str(path))


def decode_image(data: bytes, name: str) -> Image:
    """The same for the bytes of a file; `name` is used in messages."""
    return to_float(_stored(_decoded(data, name), name))


def read_pixels(path: str | Path) -> Stored:
    """The same image in the depth of the file: (H, W, 3) uint8 or uint16, BGR; read-only, grey takes 1 number a pixel.

    Transparent and floating-point images are float32 in [0, 1]. `to_float` of it is what `read_image` gives.
    """
    return _stored(_decoded(_bytes_of(Path(path)), str(path)), str(path))


def decode_pixels(data: bytes, name: str) -> Stored:
    """`read_pixels` for the bytes of a file; `name` is used in messages."""
    return _stored(_decoded(data, name), name)


class Header(NamedTuple):
    """What a file says of itself at its start: `PNG`, `JPEG`, `MPO`, `BMP`, `TIFF` or `WEBP`, and pixels as stored."""

    kind: str
    width: int
    height: int


def header_of(data: bytes, name: str) -> Header:
    """The header of an image file, by its content; nothing is decoded. Raises ImageError when it is no image."""
    try:
        with _opened(data) as header:
            return Header(str(header.format), *header.size)
    except UnidentifiedImageError as problem:
        raise ImageError(f"{name}: not an image; expected PNG, JPEG, BMP, TIFF or WebP") from problem
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        raise _damaged(name, problem) from problem


def read_shape(path: str | Path) -> tuple[int, int]:
    """Rows and columns of the image that `read_image` gives; of most files nothing is decoded. Raises ImageError."""
    data = _bytes_of(Path(path))
    turn, _ = _check_header(data, str(path))
    header = header_of(data, str(path))
    if header.kind == "TIFF":  # turned by its decoder
        height, width = _decoded(data, str(path)).shape[:2]
        return height, width
    turned = turn in _TURNS and _TURNS[turn][0] % 2 == 1
    return (header.width, header.height) if turned else (header.height, header.width)


def taken_at(path: str | Path) -> str:
    """Read from a photo's EXIF data when it was taken: "2026:05:06 07:08:09.12"; "" without a time or if damaged.

    Raises ImageError when the file cannot be read.
    """
    data = _bytes_of(Path(path))
    if data.startswith(b"\x89PNG") and b"eXIf" not in data:
        return ""  # Pillow would decode the whole picture in search of it
    try:
        with _opened(data) as header:
            facts = header.getexif().get_ifd(_EXIF)
            time, fraction = (str(facts.get(tag, "")).strip("\0 ") for tag in (_TAKEN, _FRACTION))
    except Exception:  # Pillow raises many kinds on damaged EXIF, which says nothing of the pixels
        return ""
    return f"{time}.{fraction or 0}" if time else ""


def to_float(pixels: Stored) -> Image:
    """uint8, uint16 or float32 in [0, 1] -> float32 in [0, 1], a copy unless it is that already."""
    if pixels.dtype.kind == "f":
        return np.ascontiguousarray(pixels, np.float32)
    return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32, order="C")


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Mask:
    """Read a defect mask: (H, W) bool, True where any channel is not zero; of a folder, where any mask in it is.

    In a JPEG, from half of the full scale on: its compression leaves faint rings about every edge. Raises ImageError
    unless of `shape`, where one is given, as it must be for a folder.
    """
    if shape is not None and Path(path).is_dir():
        parts = [part for part in sorted(Path(path).iterdir()) if part.suffix.lower() in SUFFIXES]
        parts = [part for part in parts if not part.name.startswith(".")]
        if not parts:
            raise ImageError(f"{path}: the folder holds no mask; add one or remove it")
        return np.asarray(np.any([read_mask(part, shape) for part in parts], axis=0), np.bool_)
    data = _bytes_of(Path(path))
    pixels = _decoded(data, str(path))
    if pixels.ndim == 3:  # the alpha of a mask says nothing
        pixels = pixels[:, :, :3].max(axis=2)
    if shape is not None and pixels.shape != tuple(shape):
        raise ImageError(
            f"{path}: the mask is {pixels.shape[1]}x{pixels.shape[0]} pixels but its image {shape[1]}x{shape[0]}; "
            "save it at the image's size"
        )
    return np.asarray(pixels > 127 if data.startswith(b"\xff\xd8") else pixels != 0, np.bool_)


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as problem:
        raise ImageError(f"{path}: there is no such file") from problem
    except PermissionError as problem:
        raise ImageError(f"{path}: no permission to read it; change its permissions") from problem
    except OSError as problem:
        raise ImageError(f"{path}: cannot be read ({problem.strerror})") from problem
    except ValueError as problem:  # a NUL in the name
        raise ImageError(f"{str(path)!r} is not the name of a file") from problem
    if not data:
        raise ImageError(f"{path}: the file is empty; copy it again or remove it")
    return data


def _decoded(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """Upright pixels as stored: (H, W) or (H, W, 3 or 4), BGR(A)."""
    turn, composed = _check_header(data, name)
    pixels: np.ndarray[Any, Any] | None = None
    if composed != "grey":
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:  # sides beyond its limit
            pixels = None
    if pixels is None:
        pixels = _by_pillow(data, name)
    elif pixels.ndim == 3 and (composed == "always" or (composed == "8 bits" and pixels.dtype == np.uint8)):
        pixels = pixels[:, :, :3]
    if turn in _TURNS:
        quarters, mirrored = _TURNS[turn]
        pixels = np.rot90(pixels, quarters)
        pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


@contextmanager
def _opened(data: bytes) -> Iterator[Pillow.Image]:
    """The file in Pillow, with its warnings off and its size limit, lower than ours, lifted while it is opened."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _LIMIT:
            theirs, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
            try:
                image = Pillow.open(io.BytesIO(data), formats=_FORMATS)
            finally:
                Pillow.MAX_IMAGE_PIXELS = theirs
        with image:
            yield image


def _check_header(data: bytes, name: str) -> tuple[int, str]:
    """Refuse what is no image, too large or cut short.

    Returns the EXIF orientation left to apply (1: upright) and in what cases the decoder has composed the alpha
    channel already: "never", "8 bits", "always", or "grey" where OpenCV loses it.
    """
    composed = "never"
    try:
        with _opened(data) as header:
            width, height = header.size
            kind = str(header.format)
            if kind == "TIFF":
                extra = header.tag_v2.get(338, (0,))  # type: ignore[attr-defined]
                alpha = extra[0] if isinstance(extra, tuple) else extra
                composed = "grey" if header.mode == "LA" else {1: "always", 2: "8 bits"}.get(alpha, "never")
            if kind == "PNG" and header.mode in ("1", "L") and "transparency" in header.info:
                composed = "grey"
            large = width * height > MAX_PIXELS
            whole = large or _whole(data, kind, header)
            turn = _orientation(data, kind, header) if whole and not large else 1
            several = whole and not large and kind != "MPO" and _several(header, kind)
    except UnidentifiedImageError as problem:
        raise ImageError(
            f"{name}: not an image, or damaged at its start; expected PNG, JPEG, BMP, TIFF or WebP"
        ) from problem
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        raise _damaged(name, problem) from problem
    if large:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {MAX_PIXELS} pixels; cut it into smaller images"
        )
    if width == 0 or height == 0 or not whole:
        raise ImageError(f"{name}: the image is truncated; copy it again or remove it")
    if several:
        raise ImageError(f"{name}: the file holds several images; save each as a file of its own")
    return turn, composed


def _orientation(data: bytes, kind: str, header: Pillow.Image) -> int:
    """EXIF orientation left to apply: the decoders turn a TIFF themselves."""
    if kind in ("TIFF", "BMP"):
        return 1
    if kind == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1  # Pillow would decode the whole picture in search of it
    try:
        return int(header.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on damaged EXIF, which says nothing of the pixels
        return 1


def _several(header: Pillow.Image, kind: str) -> bool:
    """Whether there are more images than the first; smaller versions and masks that TIFF keeps with it do not count."""
    if kind != "TIFF":
        return bool(getattr(header, "is_animated", False))
    for page in range(1, int(getattr(header, "n_frames", 1))):
        header.seek(page)
        if not int(header.tag_v2.get(254, 0)) & 5:  # type: ignore[attr-defined]
            return True
    return False


def _damaged(name: str, problem: Exception) -> ImageError:
    return ImageError(f"{name}: the image is damaged ({type(problem).__name__}); copy it again or remove it")


def _whole(data: bytes, kind: str, header: Pillow.Image) -> bool:
    """Whether the file holds all its pixels, by its end mark or stated length: nothing is decoded."""
    if kind in ("JPEG", "MPO"):
        start = 2
        while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != 0xDA:  # thumbnails end as images do
            start += 1 if data[start + 1] == 0xFF else 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        return data.find(b"\xff\xd9", start) >= 0
    if kind == "PNG":
        start = 8
        while start + 12 <= len(data):
            if data[start + 4 : start + 8] == b"IEND":
                return True
            start += 12 + int.from_bytes(data[start : start + 4], "big")
        return False
    if kind == "BMP":
        for decoder, (_, top, _, bottom), offset, arguments in header.tile:  # type: ignore[attr-defined]
            if decoder == "raw":  # some writers leave the stated length 0 or wrong
                return len(data) >= int(offset) + int(arguments[1]) * int(bottom - top)
        return len(data) >= int(struct.unpack_from("<I", data, 2)[0])
    if kind == "WEBP":
        return len(data) >= int(struct.unpack_from("<I", data, 4)[0]) + 8
    tags = header.tag_v2  # type: ignore[attr-defined]
    starts, counts = tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))
    return all(start + count <= len(data) for start, count in zip(starts, counts, strict=False))


def _by_pillow(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """Decode what OpenCV does not (some TIFF compressions, some palettes): (H, W) or (H, W, 3 or 4), BGR(A)."""
    try:
        with _opened(data) as image:
            plain = image.mode in ("L", "I;16", "F") and not image.has_transparency_data
            pixels = np.asarray(image if plain else image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except Exception as problem:
        raise _damaged(name, problem) from problem
    return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


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
        image = to_float(pixels)
        return np.ascontiguousarray(image[:, :, :3] * image[:, :, 3:])
    if pixels.shape[2] != 3:
        raise ImageError(f"{name}: {pixels.shape[2]} channels are not supported; save it as grey or colour")
    return pixels


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


def to_uint8(image: Image) -> Pixels:
    """[0, 1] -> 0…255, rounded; values outside are clipped."""
    pixels = np.empty(image.shape, np.uint8)
    for rows in _bands(len(image)):
        pixels[rows] = np.clip(image[rows], 0, 1) * 255 + 0.5
    return pixels


def _bands(height: int) -> Iterator[slice]:
    """Some rows at a time, so that a large image needs no copy of all of it in float32."""
    return (slice(top, top + 256) for top in range(0, height, 256))


def colour_map(map_: Image) -> Pixels:
    """Map (H, W) in [0, 1] -> (H, W, 3) uint8 BGR, dark to bright in equal perceived steps."""
    return np.asarray(cv2.applyColorMap(to_uint8(map_), cv2.COLORMAP_INFERNO), dtype=np.uint8)


def overlay(image: Stored, map_: Image, polygons: Sequence[Polygon]) -> Pixels:
    """The image (H, W, 3) with its map (H, W) laid over as heat and `polygons` (N, 2) drawn around it: uint8 BGR.

    Blue and yellow, told apart without red/green vision; a dark line under the bright one keeps it visible on white.
    """
    pixels = np.empty(image.shape, np.uint8)
    for rows in _bands(len(image)):
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


def as_stored(image: Image, like: Stored) -> Stored:
    """An image (H, W, 3) float32 in [0, 1] in the depth of another, as a camera would store it; values are clipped."""
    if like.dtype.kind != "u":
        return np.asarray(np.clip(image, 0, 1), like.dtype)
    full = np.iinfo(like.dtype).max
    return np.asarray(np.rint(np.clip(image, 0, 1) * full), like.dtype)


def outlines(mask: Mask) -> list[Polygon]:
    """Outer contours of the True areas of (H, W): arrays (N, 2) of x, y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, np.int32).reshape(-1, 2) for contour in found]


def components(mask: Mask) -> tuple[Numbered, list[tuple[int, int, int, int, int]]]:
    """Connected True areas of (H, W), pixels that touch at a corner together: their numbers (H, W), from 1 on and 0
    elsewhere, and for each (x, y, width, height, area) in pixels."""
    count, numbers, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(numbers, np.int32), [tuple(row) for row in found[1:count].tolist()]
