"""Image files in and out, and the few pixel operations that need OpenCV. No other module imports cv2.

The header is read first (`data.formats`): it tells what the file holds, and what memory it takes, before any is taken.
Then OpenCV decodes, or a reader of ours where OpenCV or Pillow would go on in silence over what is missing. A file
whose pixels are missing or corrupt is refused, unless `accept_damaged` was called.

Images are (H, W, 3) float32 in [0, 1], BGR, unless said otherwise.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

# OpenCV reads its own limit at import; ours is checked first and names the file.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 34))
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_WIDTH", str(1 << 30))  # strips of a TIFF pass as rows (tiff_pixels)
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_HEIGHT", str(1 << 30))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what fails is said once, by us

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms, ImageFile, UnidentifiedImageError

from flawmap.data.formats import Damage, Unsupported, bmp, jpeg, png, rare, tiff, tiff_colour, tiff_pixels
from flawmap.data.white import (
    FULL_SCALE,
    White,
    at_white,
    bright_value,
    reach_of,
    stated_white,
    white_to_show,
)
from flawmap.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 200_000_000
MAX_BYTES = 1_500_000_000  # the most that decoding one file may take, its result included
DAMAGED = "FLAWMAP_DAMAGED"  # in the environment, so that processes started from here hold to it too

Image = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Stored = np.ndarray[Any, Any]  # uint8, uint16, or float32 in [0, 1]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbered = np.ndarray[Any, np.dtype[np.int32]]
Polygon = np.ndarray[Any, np.dtype[np.int32]]

_EXIF_MARKS = (b"eXIf", b"Raw profile type exif")
_PNG = b"\x89PNG\r\n\x1a\n"
_LIMIT = threading.Lock()
_REMARKS: dict[str, tuple[str, set[str]]] = {}  # remark: the first file, and all
_REMARKS_LOCK = threading.Lock()
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXIF, _TAKEN, _FRACTION = 0x8769, 0x9003, 0x9291  # the section of EXIF data, DateTimeOriginal, SubSecTimeOriginal
# What turns or mirrors the stored pixels to the upright image, by EXIF orientation.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


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
    with _memory(name):
        return to_float(_stored(at_white(_decoded(data, name, floats=True), white, name, data), name))


def read_pixels(path: str | Path, white: White = FULL_SCALE) -> Stored:
    """The same image in the depth of the file: (H, W, 3) uint8 or uint16, BGR; read-only, grey takes 1 number a pixel.

    16 bits are brought to their full scale. Transparent and floating-point images are float32 in [0, 1]. `to_float` of
    it is what `read_image` gives.
    """
    return decode_pixels(_bytes_of(Path(path)), str(path), white)


def decode_pixels(data: bytes, name: str, white: White = FULL_SCALE) -> Stored:
    """`read_pixels` for the bytes of a file; `name` is used in messages."""
    with _memory(name):
        return _stored(at_white(_decoded(data, name), white, name, data), name)


class Brightness(NamedTuple):
    """How bright a photo is. largest: its largest pixel where it has 16 bits and states no level, else None. bright:
    what bright pixels reach, in the same counts, else as a share of full white (data/white.py)."""

    largest: int | None
    bright: float


def brightness_of(data: bytes, name: str) -> Brightness:
    """How bright the photo in the bytes of a file is; its level is not asked. Raises ImageError as `decode_pixels`."""
    with _memory(name):
        pixels = _decoded(data, name)
    largest = _largest(pixels)
    if largest is not None and stated_white(data, largest) is None:
        return Brightness(largest, bright_value(pixels))
    return Brightness(None, reach_of(at_white(pixels, FULL_SCALE, name, data)))


def pixels_to_show(data: bytes, name: str, level: int | None = None) -> Stored:
    """`decode_pixels` for a person to look at, whatever the level of 16 bits; `level`: the inspection's, if known.

    Raises ImageError for what is no whole image.
    """
    with _memory(name):
        pixels = _decoded(data, name)
    return _stored(at_white(pixels, white_to_show(_largest(pixels) or 0, level), name, data), name)


def _largest(pixels: np.ndarray[Any, Any]) -> int | None:
    """The largest pixel of 16 bits, alpha left out; None of other types."""
    if pixels.dtype != np.uint16:
        return None
    return int(pixels[:, :, :3].max() if pixels.ndim == 3 else pixels.max())


class Header(NamedTuple):
    """What a file says of itself at its start: `PNG`, `JPEG`, `MPO`, `BMP`, `TIFF` or `WEBP`, and pixels as stored."""

    kind: str
    width: int
    height: int


def header_of(data: bytes, name: str) -> Header:
    """The header of an image file, by its content; nothing is decoded. Raises ImageError when it is no image."""
    try:
        if _is_tiff(data):
            page = tiff.read_page(data)
            return Header("TIFF", page.width, page.height)
        if data.startswith(_PNG):
            return Header("PNG", *png.size(data))
        if data.startswith(b"BM"):
            return Header("BMP", *bmp.facts(data)[:2])
        with _opened(data) as header:
            return Header(str(header.format), *header.size)
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise _damaged(name, str(problem)) from problem
    except UnidentifiedImageError as problem:
        raise _foreign(data, name, "not an image") from problem
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        raise _damaged(name, type(problem).__name__) from problem


def read_shape(path: str | Path) -> tuple[int, int]:
    """Rows and columns of the image that `read_image` gives; of most files nothing is decoded. Raises ImageError."""
    data, name = _bytes_of(Path(path)), str(path)
    if rare.is_dicom(data):
        height, width = _decoded(data, name).shape[:2]
        return height, width
    header = header_of(data, name)
    turn = tiff.read_page(data).orientation if header.kind == "TIFF" else _orientation(data, header.kind)
    _fits(name, header.width, header.height)
    turned = turn in _TURNS and _TURNS[turn][0] % 2 == 1
    return (header.width, header.height) if turned else (header.height, header.width)


def accept_damaged(accept: bool) -> None:
    """Read damaged images too from now on, here and in processes started from here: what is missing is grey or black.

    What was read so is told by `remarks`.
    """
    os.environ[DAMAGED] = "accept" if accept else "refuse"


def remarks() -> list[str]:
    """What was remarked on files read since the last call, a line for each kind of remark with a file that had it."""
    with _REMARKS_LOCK:
        lines = [
            f"{first}: {remark}" if len(names) == 1 else f"{remark}: {len(names)} files, such as {first}"
            for remark, (first, names) in _REMARKS.items()
        ]
        _REMARKS.clear()
    return lines


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


def held_bytes(pixels: Stored) -> int:
    """Memory that an image of `read_pixels` holds, in bytes: grey is held once."""
    return pixels.nbytes // 3 if pixels.ndim == 3 and pixels.strides[2] == 0 else pixels.nbytes


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Mask:
    """Read a defect mask (H, W) bool, as `masks.read_mask` does."""
    from flawmap.data import masks  # which needs this module

    return masks.read_mask(path, shape)


class MaskPixels(NamedTuple):
    """A mask file as stored, upright.

    colours: (H, W) or (H, W, 3) of any number type, BGR; alpha: (H, W), None without; indices: (H, W) of a palette,
    None without; lossy: whether it is a JPEG; white_is_0: whether its file counts from white (TIFF, MinIsWhite)
    """

    colours: np.ndarray[Any, Any]
    alpha: np.ndarray[Any, Any] | None
    indices: np.ndarray[Any, Any] | None
    lossy: bool
    white_is_0: bool


def read_mask_pixels(path: str | Path) -> MaskPixels:
    """Read a mask file without judging which pixels are marked. Raises ImageError as `read_image` does."""
    data = _bytes_of(Path(path))
    if _is_tiff(data) and (numbers := _whole_numbers(data, str(path))) is not None:
        return numbers
    pixels = _decoded(data, str(path))
    indices, white_is_0 = None, False
    try:
        with _opened(data) as image:
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
    return MaskPixels(colours, alpha, indices, data.startswith(b"\xff\xd8"), white_is_0)


def _whole_numbers(data: bytes, name: str) -> MaskPixels | None:
    """A grey TIFF of signed or 32-bit integers, as label tools write; None for other files.

    Below 0 are 255 as a signed byte keeps it, and what counts for nothing: read as 255, or as 0 where they are most.
    """
    try:
        page = tiff.read_page(data)
        if page.samples != 1 or not (page.kind == 2 or (page.kind == 1 and page.bits > 16)):
            return None
        _fits(name, page.width, page.height, 2 * 8 + page.bits // 8, data)
        with _memory(name):
            tiff.check(data, page)
            stored = tiff_pixels.decode(data, page, _grey_tiff) if tiff_pixels.readable(page) else rare.tiff(data, page)
            values = stored.reshape(stored.shape[:2]).astype(np.int64)
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise _damaged(name, str(problem)) from problem
    if values.size and values.min() < 0:
        behind = 2 * np.count_nonzero(values < 0) > values.size
        values = np.where(values < 0, 0, values + 1) if behind else np.where(values < 0, 255, values)
    if page.orientation in _TURNS:
        quarters, mirrored = _TURNS[page.orientation]
        values = np.rot90(values, quarters)
        values = values[:, ::-1] if mirrored else values
    kind = np.uint16 if values.max(initial=0) <= 65535 else np.int64
    return MaskPixels(np.ascontiguousarray(values, kind), None, None, False, page.photometric == 0)


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


def _decoded(data: bytes, name: str, floats: bool = False) -> np.ndarray[Any, Any]:
    """Upright pixels as stored: (H, W) or (H, W, 3 or 4), BGR(A). `floats`: a float32 image is made of them."""
    result = 12 if floats else 0  # bytes a pixel that the caller adds
    try:
        if data.startswith(b"\xff\xd8"):
            pixels, turn = _jpeg(data, name, result), _orientation(data, "JPEG")
        elif data.startswith(_PNG):
            pixels, turn = _png(data, name, result), _orientation(data, "PNG")
        elif _is_tiff(data):
            pixels, turn = _tiff(data, name, result)
        elif data.startswith(b"BM"):
            pixels, turn = _bmp(data, name, result), 1
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            pixels, turn = _webp(data, name, result), _orientation(data, "WEBP")
        elif rare.is_dicom(data):
            pixels, turn = _swapped(rare.dicom(data, partial(_fits, name))), 1
        else:
            raise _foreign(data, name, "not an image, or damaged at its start")
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise _damaged(name, str(problem)) from problem
    if turn in _TURNS:
        quarters, mirrored = _TURNS[turn]
        pixels = np.rot90(pixels, quarters)
        pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


def _is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _jpeg(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = jpeg.facts(data)
    decoded = min(said.components, 3)
    _fits(name, said.width, said.height, decoded + max(decoded + result, jpeg.working_bytes(said)), data)
    with _heard(name):
        if data.find(b"\xff\xd9", said.first_scan) < 0:
            raise Damage("truncated")
        jpeg.check(data, said)
    with _heard(name):
        pixels = jpeg.decode(data, said)
        return _by_opencv(data) if pixels is None else pixels
    pixels = jpeg.decode(data, said, strict=False)
    return _by_opencv(data) if pixels is None else pixels


def _png(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    width, height = png.size(data)
    _fits(name, width, height)
    said = None
    with _heard(name):
        said = png.facts(data)
    if said is None:
        return _by_pillow(data, name, lenient=True)
    _fits(name, width, height, said.decoded_bytes + max(result, said.decoded_bytes), data)
    if said.animated:
        raise Unsupported("the file holds several images; save each as a file of its own")
    with _heard(name):
        pixels = _by_opencv(data)
        if pixels.ndim == 2 and said.transparent and said.colours == 0:  # OpenCV loses which grey is transparent
            pixels[pixels == png.transparent_grey(data, said)] = 0
        return pixels
    return _by_pillow(data, name, lenient=True)


def _tiff(data: bytes, name: str, result: int) -> tuple[np.ndarray[Any, Any], int]:
    """The pixels, and the turn left to apply: OpenCV and Pillow turn a TIFF themselves."""
    page = tiff.read_page(data)
    _fits(name, page.width, page.height, tiff_pixels.working_bytes(page) + result, data)
    if page.others:
        raise Unsupported("the file holds several images; save each as a file of its own")
    with _heard(name):
        tiff.check(data, page)
    if tiff_pixels.readable(page):
        tiff_colour.refuse(page)
        samples: np.ndarray[Any, Any] | None = None
        with _heard(name):
            samples = tiff_pixels.decode(data, page, _grey_tiff)
        if samples is None:
            samples = tiff_pixels.decode(data, page, _grey_tiff, strict=False)
    elif tiff.common(page) and not (page.compression in tiff.BY_EXTRA and rare.reads_tiff()):
        return _common_tiff(data, page, name), 1
    else:
        tiff_colour.refuse(page)
        samples = rare.tiff(data, page)
    if page.photometric in (tiff_colour.CIELAB, tiff_colour.ICCLAB):
        return _from_lab(samples, page), page.orientation
    pixels, remark = tiff_colour.to_picture(samples, page)
    if remark:
        _remark(name, remark)
    return _swapped(pixels), page.orientation


def _common_tiff(data: bytes, page: tiff.Page, name: str) -> np.ndarray[Any, Any]:
    """Kinds of 8 bits and fewer that OpenCV and Pillow read right, if without reporting all damage."""
    try:
        pixels = _by_opencv(data)
    except Damage:
        return _by_pillow(data, name)
    return pixels[:, :, :3] if pixels.ndim == 3 else pixels


def _grey_tiff(file: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    try:
        return cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _from_lab(samples: np.ndarray[Any, Any], page: tiff.Page) -> np.ndarray[Any, Any]:
    """CIELAB of 8 bits -> BGR by the profiles of LittleCMS, to sRGB."""
    if page.bits != 8 or page.samples < 3:
        raise Unsupported("colours in CIELAB of more than 8 bits; save it as RGB")
    offset = 128 if page.photometric == tiff_colour.ICCLAB else 0  # CIELAB has signed a and b, as Pillow's mode LAB
    image = Pillow.fromarray(np.ascontiguousarray(samples[:, :, :3] ^ np.array([0, offset, offset], np.uint8)), "LAB")
    lab, screen = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.applyTransform(image, ImageCms.buildTransform(lab, screen, "LAB", "RGB")))[:, :, ::-1]


def _bmp(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = bmp.facts(data)
    _fits(name, said.width, said.height, 4 + max(result, 4), data)
    with _heard(name):
        bmp.check(data, said)
    pixels = bmp.by_masks(data, said)
    if pixels is not None:
        return pixels
    try:
        return _by_opencv(data)
    except Damage:  # some palettes
        return _by_pillow(data, name)


def _webp(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    try:
        with _opened(data) as header:
            (width, height), several = header.size, bool(getattr(header, "is_animated", False))
            channels = 4 if header.mode == "RGBA" else 3
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
        raise Damage(type(problem).__name__ if whole else "truncated") from problem
    _fits(name, width, height, channels + max(channels, 12 if channels == 4 else result), data)
    if several:
        raise Unsupported("the file holds several images; save each as a file of its own")
    with _heard(name):
        if len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise Damage("truncated")
    return _by_opencv(data)


def _by_opencv(data: bytes) -> np.ndarray[Any, Any]:
    """Raises Damage where OpenCV does not decode it, which for what it is given here means that pixels are corrupt."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as problem:
        if problem.code == -4:  # OpenCV's name for it is StsNoMem
            raise MemoryError from problem
        pixels = None
    if pixels is None:
        raise Damage("its pixels cannot be decoded")
    return np.asarray(pixels)


def _swapped(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RGB(A) -> BGR(A), in place where that can be."""
    if pixels.ndim == 2 or pixels.dtype.itemsize == 8 or pixels.dtype == np.float16:
        return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    if pixels.shape[2] == 3 and pixels.flags.c_contiguous:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR, dst=pixels))
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


@contextmanager
def _heard(name: str) -> Iterator[None]:
    """Let damage pass as a remark where it is accepted; it is refused otherwise."""
    try:
        yield
    except Damage as problem:
        if os.environ.get(DAMAGED) != "accept":
            raise
        _remark(name, f"damaged and read all the same ({problem})")


def _remark(name: str, remark: str) -> None:
    with _REMARKS_LOCK:
        names = _REMARKS.setdefault(remark, (name, set()))[1] if len(_REMARKS) < 1000 else {name}
        if len(names) < 100_000:
            names.add(name)


@contextmanager
def _memory(name: str) -> Iterator[None]:
    """One image that memory does not hold is one image that cannot be used."""
    try:
        yield
    except MemoryError as problem:
        raise ImageError(f"{name}: it does not fit into this machine's memory; cut it into smaller images") from problem


def _fits(name: str, width: int, height: int, bytes_each: float = 0, data: bytes = b"") -> None:
    """Refuse more than MAX_PIXELS, or than MAX_BYTES at so many bytes a pixel and the file itself twice."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {MAX_PIXELS} pixels; cut it into smaller images"
        )
    if width <= 0 or height <= 0:
        raise Damage("it states no size")
    needed = width * height * bytes_each + 2 * len(data)
    if needed > MAX_BYTES:
        raise ImageError(
            f"{name}: {width}x{height} takes {needed / 1e9:.1f} GB to decode, over the limit of "
            f"{MAX_BYTES / 1e9:.1f}; cut it into smaller images"
        )


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


def _orientation(data: bytes, kind: str) -> int:
    """EXIF orientation left to apply."""
    if kind == "BMP" or not any(mark in data for mark in (_EXIF_MARKS if kind == "PNG" else (b"Exif", b"EXIF"))):
        return 1  # Pillow would decode a whole PNG in search of it
    try:
        with _opened(data) as header:
            return int(header.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on damaged EXIF, which says nothing of the pixels
        return 1


def _damaged(name: str, reason: str) -> ImageError:
    if reason == "truncated":
        return ImageError(f"{name}: the image is truncated; copy it again or remove it")
    return ImageError(f"{name}: the image is damaged ({reason}); copy it again or remove it")


def _foreign(data: bytes, name: str, words: str) -> ImageError:
    known = rare.name_of(data)
    if known:
        return ImageError(f"{name}: it is {known}")
    return ImageError(f"{name}: {words}; expected PNG, JPEG, BMP, TIFF or WebP")


def _by_pillow(data: bytes, name: str, lenient: bool = False) -> np.ndarray[Any, Any]:
    """Decode what OpenCV does not (some TIFF compressions, some palettes): (H, W) or (H, W, 3 or 4), BGR(A).

    `lenient` fills what is missing.
    """
    try:
        with _opened(data) as image, _lenient(lenient):
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
        return _over_black(pixels)
    if pixels.shape[2] != 3:
        raise ImageError(f"{name}: {pixels.shape[2]} channels are not supported; save it as grey or colour")
    return pixels


def _over_black(pixels: np.ndarray[Any, Any]) -> Stored:
    """(H, W, 4) -> (H, W, 3) float32 in [0, 1]; in the depth of the file where all of it is opaque."""
    full = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    if pixels[:, :, 3].min() == full:
        return np.ascontiguousarray(pixels[:, :, :3])
    image = np.empty((*pixels.shape[:2], 3), np.float32)
    for rows in _bands(len(pixels)):
        part = to_float(pixels[rows])
        image[rows] = part[:, :, :3] * part[:, :, 3:]
    return image


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
