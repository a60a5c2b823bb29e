"""PNG: chunks before the pixels (W3C PNG, third edition). OpenCV decodes, and libpng's checks of each chunk are heard.

Deflate reaches 1032 : 1 at most, so that a header which claims more than the bytes can hold is told before decoding.
"""

from __future__ import annotations

from typing import NamedTuple

from flawmap.data.formats import Damage

MARK = b"\x89PNG\r\n\x1a\n"
DEFLATE_RATIO = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class Facts(NamedTuple):
    """IHDR, and the chunks that matter: `transparent` tRNS, `animated` acTL, `exif` EXIF data in any form."""

    width: int
    height: int
    depth: int
    colours: int
    interlaced: bool
    transparent: bool
    animated: bool
    exif: bool

    @property
    def channels(self) -> int:
        """Numbers a pixel as stored."""
        return _CHANNELS[self.colours]

    @property
    def decoded_bytes(self) -> int:
        """Bytes a pixel once decoded; the float32 that alpha makes of them count where they are more."""
        deep = 2 if self.depth == 16 else 1
        if self.colours in (4, 6) or self.transparent:
            return max(4 * deep, 12)
        return (3 if self.colours in (2, 3) else 1) * deep


def size(data: bytes) -> tuple[int, int]:
    """Columns and rows. Raises Damage without a header."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Damage("it has no header")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def facts(data: bytes) -> Facts:
    """Walk the chunks; nothing is decoded. Raises Damage when the end is missing or too few bytes hold the pixels."""
    width, height = size(data)
    depth, colours, interlaced = data[24], data[25], data[28]
    if colours not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise Damage("its header holds no kind of PNG")
    at, found, stored, ended, frames = 8, set(), 0, False, 0
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IEND":
            ended = True
            break
        if kind == b"IDAT":
            stored += length
        elif kind == b"acTL":
            frames = int.from_bytes(data[at + 8 : at + 12], "big")
        elif kind in (b"zTXt", b"tEXt", b"iTXt") and data.startswith(b"Raw profile type exif", at + 8):
            found.add(b"eXIf")
        found.add(kind)
        at += 12 + length
    if not ended:
        raise Damage("truncated")
    needed = height * (1 + (width * depth * _CHANNELS[colours] + 7) // 8)
    if needed > DEFLATE_RATIO * (stored + 16):
        raise Damage(f"{width}x{height} pixels cannot lie in {stored} bytes")
    animated = frames > 1 or (b"fcTL" in found and frames != 1)
    return Facts(
        width, height, depth, colours, interlaced == 1, b"tRNS" in found, animated, b"eXIf" in found
    )  # fmt: skip


def transparent_grey(data: bytes, said: Facts) -> int:
    """The grey that tRNS makes transparent, at the scale of decoded pixels; -1 where it states none."""
    at = data.find(b"tRNS") + 4
    value = int.from_bytes(data[at : at + 2], "big")
    white = (1 << said.depth) - 1
    return value if said.depth >= 8 else (value & white) * (255 // white)
