"""PNG: its chunks, their checksums verified before OpenCV decodes (W3C PNG, third edition).

libpng writes what it finds wrong to the terminal, without a file's name, and about chunks that say nothing of the
pixels too: it is given the others alone.

Deflate reaches 1032 : 1 at most, so that a header which claims more than the bytes can hold is told before decoding.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from flawmap.data.formats import Damage

MARK = b"\x89PNG\r\n\x1a\n"
DEFLATE_RATIO = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


class Facts(NamedTuple):
    """IHDR, and the chunks that matter: `transparent` tRNS, `animated` acTL, `exif` EXIF data in any form.

    `kept` are the spans of the chunks that make the pixels, in their order; `end` is where the last chunk ends."""

    width: int
    height: int
    depth: int
    colours: int
    interlaced: bool
    transparent: bool
    animated: bool
    exif: bool
    kept: tuple[tuple[int, int], ...]
    end: int

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
    """Walk the chunks; nothing is decoded.

    Raises Damage when the end is missing, too few bytes hold the pixels, or the checksum of a chunk that they need is
    wrong.
    """
    width, height = size(data)
    depth, colours, interlaced = data[24], data[25], data[28]
    if depth not in _DEPTHS.get(colours, ()) or data[26] or data[27] or interlaced > 1:
        raise Damage("its header holds no kind of PNG")
    at, found, stored, ended, frames = 8, set(), 0, False, 0
    palette, transparent, pixels = None, None, list[tuple[int, int]]()
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        span = (at, at + 12 + length)
        if kind == b"IEND":
            ended = True
            break
        if kind == b"IDAT":
            pixels.append(span)
            stored += length
        elif kind == b"PLTE":
            palette = palette or span
        elif kind == b"tRNS":
            transparent = transparent or span
        elif kind == b"acTL":
            frames = int.from_bytes(data[at + 8 : at + 12], "big")
        elif kind in (b"zTXt", b"tEXt", b"iTXt") and data.startswith(b"Raw profile type exif", at + 8):
            found.add(b"eXIf")
        elif kind != b"IHDR" and not kind[0] & 0x20:
            raise Damage("it holds a chunk of an unknown kind that its pixels need")
        found.add(kind)
        at = span[1]
    if not ended:
        raise Damage("truncated")
    needed = height * (1 + (width * depth * _CHANNELS[colours] + 7) // 8)
    if needed > DEFLATE_RATIO * (stored + 16):
        raise Damage(f"{width}x{height} pixels cannot lie in {stored} bytes")
    palette = _palette(palette, colours)
    transparent = _transparent(transparent, colours, palette)
    kept = ((8, 33), *(span for span in (palette, transparent) if span), *pixels, (at, at + 12))
    view = memoryview(data)
    for start, stop in kept:
        if zlib.crc32(view[start + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
            raise Damage("a checksum is wrong")
    animated = frames > 1 or (b"fcTL" in found and frames != 1)
    return Facts(
        width, height, depth, colours, interlaced == 1, transparent is not None, animated, b"eXIf" in found, kept,
        at + 12,
    )  # fmt: skip


def _palette(span: tuple[int, int] | None, colours: int) -> tuple[int, int] | None:
    """The chunk where it is needed; what a picture in colour suggests is left out."""
    if colours != 3:
        return None
    if span is None or not 3 <= span[1] - span[0] - 12 <= 768 or (span[1] - span[0]) % 3:
        raise Damage("its palette is missing or odd")
    return span


def _transparent(span: tuple[int, int] | None, colours: int, palette: tuple[int, int] | None) -> tuple[int, int] | None:
    """The chunk where it has the length that its kind of pixels asks for; libpng leaves others out."""
    if span is None:
        return None
    length = span[1] - span[0] - 12
    if palette is not None:
        return span if 0 < length <= (palette[1] - palette[0] - 12) // 3 else None
    return span if length == {0: 2, 2: 6}.get(colours) else None


def bare(data: bytes, said: Facts) -> bytes:
    """The file with the chunks alone that make its pixels: itself where it holds no others."""
    if said.end == len(data) == 8 + sum(stop - start for start, stop in said.kept):
        return data
    return MARK + b"".join(data[start:stop] for start, stop in said.kept)


def transparent_grey(data: bytes, said: Facts) -> int:
    """The grey that tRNS makes transparent, at the scale of decoded pixels; -1 where it states none."""
    at = next(start + 8 for start, _ in said.kept if data[start + 4 : start + 8] == b"tRNS")
    value = int.from_bytes(data[at : at + 2], "big")
    white = (1 << said.depth) - 1
    return value if said.depth >= 8 else (value & white) * (255 // white)
