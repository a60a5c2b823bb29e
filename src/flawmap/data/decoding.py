"""Bytes of an image file -> its pixels as stored, upright.

The header is read first (`data.formats`): it tells what the file holds, and what memory it takes, before any is taken.
Then OpenCV decodes, or a reader of ours where OpenCV or Pillow would go on in silence over what is missing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from flawmap.data.by_pillow import TURNS, by_pillow, opened, orientation_of
from flawmap.data.formats import (
    Damage,
    Unsupported,
    bmp,
    dicom,
    jpeg,
    jpeg2000,
    png,
    pnm,
    rare,
    tiff,
    tiff_colour,
    tiff_pixels,
    tiff_streams,
)
from flawmap.data.limits import PADDING, TRAILING, fits, heard, remark
from flawmap.data.opencv import cv2
from flawmap.errors import ImageError


def decoded(data: bytes, name: str, floats: bool = False) -> np.ndarray[Any, Any]:
    """Upright pixels as stored: (H, W) or (H, W, 3 or 4), BGR(A). `floats`: a float32 image is made of them."""
    result = 12 if floats else 0  # bytes a pixel that the caller adds
    try:
        if data.startswith(b"\xff\xd8"):
            pixels, turn = _jpeg(data, name, result), orientation_of(data, "JPEG")
        elif data.startswith(png.MARK):
            pixels, turn = _png(data, name, result), orientation_of(data, "PNG")
        elif dicom.is_dicom(data):  # before TIFF: a file may be both
            pixels, turn = _dicom(data, name), 1
        elif is_tiff(data):
            pixels, turn = _tiff(data, name, result)
        elif data.startswith(b"BM"):
            pixels, turn = _bmp(data, name, result), 1
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            pixels, turn = _webp(data, name, result), orientation_of(data, "WEBP")
        elif pnm.is_pnm(data):
            pixels, turn = _pnm(data, name, result), 1
        elif jpeg2000.is_jpeg2000(data):
            pixels, turn = _jpeg2000(data, name, result), 1
        else:
            raise foreign(data, name, "not an image, or damaged at its start")
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise damaged(name, str(problem)) from problem
    if turn in TURNS:
        quarters, mirrored = TURNS[turn]
        pixels = np.rot90(pixels, quarters)
        pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF or BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def damaged(name: str, reason: str) -> ImageError:
    """The error for a damaged file, with what to do."""
    if reason == "truncated":
        return ImageError(f"{name}: the image is truncated; copy it again or remove it")
    return ImageError(f"{name}: the image is damaged ({reason}); copy it again or remove it")


def foreign(data: bytes, name: str, words: str) -> ImageError:
    """The error for a file of another kind: what it is and what to do, or `words` where that is not known."""
    known = rare.name_of(data)
    if known:
        return ImageError(f"{name}: it is {known}")
    return ImageError(f"{name}: {words}; expected PNG, JPEG, BMP, TIFF, WebP, PGM, PPM, JPEG 2000 or DICOM")


def _jpeg(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = jpeg.facts(data)
    decoded = min(said.components, 3)
    fits(name, said.width, said.height, decoded + max(decoded + result, jpeg.working_bytes(said)), data)
    with heard(name):
        end = data.find(b"\xff\xd9", said.first_scan) + 2
        if end < 2:
            raise Damage("truncated")
        if end < len(data) and not jpeg.holds_more(data, said):
            remark(name, TRAILING)
        jpeg.check(data, said)
    with heard(name):
        pixels = jpeg.decode(data, said, padded=lambda: remark(name, PADDING))
        return by_opencv(data) if pixels is None else pixels
    pixels = jpeg.decode(data, said, strict=False)
    return by_opencv(data) if pixels is None else pixels


def _png(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    width, height = png.size(data)
    fits(name, width, height)
    said = None
    with heard(name):
        said = png.facts(data)
    if said is None:
        return by_pillow(data, name, lenient=True)
    fits(name, width, height, said.decoded_bytes + max(result, said.decoded_bytes), data)
    if said.animated:
        raise Unsupported("the file holds several images; save each as a file of its own")
    if said.end < len(data):
        remark(name, TRAILING)
    with heard(name):
        pixels = by_opencv(png.bare(data, said))
        if pixels.ndim == 2 and said.transparent and said.colours == 0:  # OpenCV loses which grey is transparent
            pixels[pixels == png.transparent_grey(data, said)] = 0
        return pixels
    return by_pillow(data, name, lenient=True)


def _tiff(data: bytes, name: str, result: int) -> tuple[np.ndarray[Any, Any], int]:
    """The pixels, and the turn left to apply: OpenCV and Pillow turn a TIFF themselves."""
    page = tiff.read_page(data)
    data = tiff.with_picture_first(data, page)
    fits(name, page.width, page.height, tiff_pixels.working_bytes(page) + result, data)
    if page.tiled:  # a tile may be much larger than the picture
        fits(name, page.block[1], page.block[0], tiff_pixels.working_bytes(page), data)
    if page.others:
        raise Unsupported("the file holds several images; save each as a file of its own")
    with heard(name):
        tiff.check(data, page)
    if not tiff_pixels.readable(page):
        working = tiff_streams.check(data, page)
        each = working * min(1.0, page.block[0] * page.block[1] / (page.width * page.height))
        fits(name, page.width, page.height, tiff_pixels.working_bytes(page) + max(each, result), data)
    if tiff_pixels.readable(page):
        tiff_colour.refuse(page)
        samples: np.ndarray[Any, Any] | None = None
        with heard(name):
            samples = tiff_pixels.decode(data, page, grey_tiff)
        if samples is None:
            samples = tiff_pixels.decode(data, page, grey_tiff, strict=False)
    elif tiff.common(page) and not (page.compression in tiff.BY_EXTRA and rare.reads_tiff()):
        return _common_tiff(data, page, name), 1
    else:
        tiff_colour.refuse(page)
        samples = rare.tiff(data, page)
    pixels, left_out = tiff_colour.to_picture(samples, page)
    if left_out:
        remark(name, left_out)
    return _swapped(pixels), page.orientation


def _common_tiff(data: bytes, page: tiff.Page, name: str) -> np.ndarray[Any, Any]:
    """Kinds of 8 bits and fewer that OpenCV and Pillow read right, if without reporting all damage."""
    try:
        pixels = by_opencv(data)
    except Damage:
        return by_pillow(data, name)
    return pixels[:, :, :3] if pixels.ndim == 3 else pixels


def grey_tiff(file: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The samples of a grey TIFF file (bytes,) as OpenCV decodes it; None where it does not."""
    try:
        return cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _bmp(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = bmp.facts(data)
    fits(name, said.width, said.height, 4 + max(result, 4), data)
    with heard(name):
        bmp.check(data, said)
    pixels = bmp.by_masks(data, said)
    if pixels is not None:
        return pixels
    try:
        return by_opencv(data)
    except Damage:  # some palettes
        return by_pillow(data, name)


def _webp(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    try:
        with opened(data) as header:
            (width, height), several = header.size, bool(getattr(header, "is_animated", False))
            channels = 4 if header.mode == "RGBA" else 3
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
        raise Damage(type(problem).__name__ if whole else "truncated") from problem
    fits(name, width, height, channels + max(channels, 12 if channels == 4 else result), data)
    if several:
        raise Unsupported("the file holds several images; save each as a file of its own")
    with heard(name):
        stated = 8 + int.from_bytes(data[4:8], "little")
        if len(data) < stated:
            raise Damage("truncated")
        if len(data) > stated + stated % 2:
            remark(name, TRAILING)
    return by_opencv(data)


def _pnm(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = pnm.facts(data)
    held = 12 * said.channels if said.plain and not said.bitmap else said.decoded_bytes
    fits(name, said.width, said.height, said.decoded_bytes + held + result, data)
    with heard(name):
        pnm.check(data, said)
    with heard(name):
        return _of_pam(pnm.decode(data, said), said, name)
    return _of_pam(pnm.decode(data, said, strict=False), said, name)


def _of_pam(pixels: np.ndarray[Any, Any], said: pnm.Facts, name: str) -> np.ndarray[Any, Any]:
    """BGR(A) or grey; a fourth or second channel that is no alpha is left out."""
    if said.channels in (2, 4) and not said.alpha:
        remark(name, tiff_colour.LEFT_OUT)
        pixels = pixels[:, :, 0] if said.channels == 2 else pixels[:, :, :3]
    if said.channels == 2 and said.alpha:
        return tiff_colour.with_alpha(pixels[:, :, 0], pixels[:, :, 1])
    return _swapped(pixels)


def _dicom(data: bytes, name: str) -> np.ndarray[Any, Any]:
    pixels, told = dicom.decode(data, partial(fits, name))
    if told:
        remark(name, told)
    return _swapped(pixels)


def _jpeg2000(data: bytes, name: str, result: int) -> np.ndarray[Any, Any]:
    said = jpeg2000.facts(data)
    fits(name, said.width, said.height, said.decoded_bytes + max(said.working_bytes, result), data)
    jpeg2000.check(data, said)
    if said.bits >= 8 and said.components != 2 and said.space != jpeg2000.SYCC:
        pixels = by_opencv(data)
    elif said.bits > 8:
        raise Unsupported(
            f"{said.components} channels of {said.bits} bits in JPEG 2000; save it as grey or RGB, or as PNG"
        )
    else:
        pixels = by_pillow(data, name)
        if said.bits < 8:  # Pillow shifts them up
            pixels = jpeg2000.at_full_scale(pixels, said.bits)
    if said.components in (2, 4) and said.alpha < 0:
        remark(name, tiff_colour.LEFT_OUT)
    if said.components in (2, 4) and (said.alpha < 0 or said.laid):
        return pixels[:, :, 0] if said.components == 2 else pixels[:, :, :3]
    return pixels


def by_opencv(data: bytes) -> np.ndarray[Any, Any]:
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
        kept = pixels if pixels.flags.writeable else None
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR, dst=kept))
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
