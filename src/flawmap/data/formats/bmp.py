"""BMP: headers, and bit fields (Microsoft's BITMAPINFOHEADER to BITMAPV5HEADER).

Four bytes a pixel are no sign of alpha: it is there only where the header gives it a mask. OpenCV takes the filling
byte for it, and Pillow reads few of the masks.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import Damage, Unsupported

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

RGB, RLE8, RLE4, BITFIELDS, ALPHA_BITFIELDS = 0, 1, 2, 3, 6


class Facts(NamedTuple):
    """`start`: where the pixels lie; `masks`: red, green, blue and alpha, 0 for none; `upwards`: the last row first."""

    width: int
    height: int
    bits: int
    compression: int
    start: int
    masks: tuple[int, int, int, int]
    upwards: bool


def facts(data: bytes) -> Facts:
    """Read the headers. Raises Damage when they are not all there."""
    try:
        start, size = struct.unpack_from("<II", data, 10)
        if size == 12:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            said = Facts(width, height, bits, RGB, start, (0, 0, 0, 0), True)
        else:
            width, rows, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
            masks = (0, 0, 0, 0)
            if compression in (BITFIELDS, ALPHA_BITFIELDS):
                alpha = size >= 56 or compression == ALPHA_BITFIELDS
                masks = struct.unpack_from("<4I" if alpha else "<3I", data, 54) + (() if alpha else (0,))
            said = Facts(width, abs(rows), bits, compression, start, masks, rows > 0)
    except struct.error as problem:
        raise Damage("truncated") from problem
    if said.width <= 0 or said.height == 0 or said.bits not in (1, 2, 4, 8, 16, 24, 32):
        raise Damage("its header states no picture")
    return said


def check(data: bytes, said: Facts) -> None:
    """See that the pixels are all there. Raises Damage, and Unsupported for what is packed in another format."""
    if said.compression in (RGB, BITFIELDS, ALPHA_BITFIELDS):
        if len(data) < said.start + said.height * _row(said):
            raise Damage("truncated")
    elif said.compression in (RLE8, RLE4):
        if len(data) < struct.unpack_from("<I", data, 2)[0]:
            raise Damage("truncated")
    else:
        raise Unsupported("a bitmap that holds a JPEG or PNG; save it as such")


def _row(said: Facts) -> int:
    return (said.width * said.bits + 31) // 32 * 4


def by_masks(data: bytes, said: Facts) -> Bytes | None:
    """(H, W, 3 or 4) uint8, BGR(A), of 16 or 32 bits a pixel; None for other bitmaps, which OpenCV reads."""
    if said.bits not in (16, 32) or said.compression in (RLE8, RLE4):
        return None
    masks = said.masks
    if said.compression == RGB:
        masks = (0x7C00, 0x3E0, 0x1F, 0) if said.bits == 16 else (0xFF0000, 0xFF00, 0xFF, 0)
    if not all(masks[:3]):
        raise Damage("it names no masks of its colours")
    rows = np.frombuffer(data, np.uint8, said.height * _row(said), said.start).reshape(said.height, -1)
    rows = rows[::-1] if said.upwards else rows
    channels = [masks[2], masks[1], masks[0]] + ([masks[3]] if masks[3] else [])
    if said.bits == 32 and all(mask in (0xFF, 0xFF00, 0xFF0000, 0xFF000000) for mask in channels):
        places = [(mask.bit_length() - 1) // 8 for mask in channels]
        quads = rows[:, : said.width * 4].reshape(said.height, said.width, 4)
        return np.ascontiguousarray(
            quads[:, :, : len(places)] if places == [*range(len(places))] else quads[:, :, places]
        )
    out = np.empty((said.height, said.width, len(channels)), np.uint8)
    for row, line in zip(out, rows, strict=True):
        values = line[: said.width * said.bits // 8].view(f"<u{said.bits // 8}").astype(np.uint32)
        for channel, mask in enumerate(channels):
            low = (mask & -mask).bit_length() - 1
            most = mask >> low
            row[:, channel] = np.rint(((values & mask) >> low) * (255 / most))
    return out
