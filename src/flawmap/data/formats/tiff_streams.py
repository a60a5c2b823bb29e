"""Strips and tiles of a TIFF that are files of another format inside: their headers are read before they are decoded.

JPEG, PNG, WebP, JPEG 2000, JPEG XL (ISO/IEC 18181-1), JPEG XR (ITU-T T.832) and LERC state a size of their own.
Decoders go by that, and what is larger than the strip is cut off in silence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from flawmap.data.formats import Damage, Unsupported, jpeg, jpeg2000, png
from flawmap.data.formats.tiff import Page

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_LERC_TYPES = (8, 8, 16, 16, 32, 32, 32, 64)  # bits, by the number that stands for the type
_KEPT = 8  # bytes a sample that decoders of JPEG XL and JPEG XR keep meanwhile, at most about
_XR_WIDTH, _XR_HEIGHT, _XR_OFFSET, _XR_COUNT = 0xBC80, 0xBC81, 0xBCC0, 0xBCC1


class Stated(NamedTuple):
    """What a picture inside says. samples and bits: 0 where that is not read; working: bytes a pixel to decode it."""

    width: int
    height: int
    samples: int = 0
    bits: int = 0
    working: float = 0


def check(data: bytes, page: Page) -> float:
    """See that each strip or tile holds a picture of its own size, channels and depth; nothing is decoded.

    Returns the bytes a pixel that decoding one takes besides. Raises Damage for those that do not, and for those that
    are cut short by their own account; Unsupported for what cannot be told.
    """
    read = _READERS.get(page.compression)
    if read is None:
        return 0
    rows, columns = page.block
    across, down = -(-page.width // columns), -(-page.height // rows)
    together = 1 if page.separate else page.samples
    working = 0.0
    for number in range(across * down * (page.samples if page.separate else 1)):
        start = int(page.offsets[number])
        count = int(page.counts[number]) if number < len(page.counts) else len(data) - start
        try:
            said = read(data[start : start + count])
        except (struct.error, IndexError) as problem:
            raise Damage("a strip or tile is corrupt") from problem
        place = number % (across * down)
        high, wide = page.height - place // across * rows, page.width - place % across * columns
        sizes = {(columns, rows), (columns, min(rows, high)), (min(columns, wide), min(rows, high))}
        if (said.width, said.height) not in sizes or said.samples not in (0, together):
            raise Damage("a strip or tile is of another size than its picture inside")
        if said.bits and (said.bits > 8) != (page.bits > 8):
            raise Damage("a strip or tile is of another depth than its picture inside")
        working = max(working, said.working)
    return working


def _jpeg(stream: bytes) -> Stated:
    said = jpeg.facts(stream)
    return Stated(said.width, said.height, said.components, said.precision, jpeg.working_bytes(said))


def _png(stream: bytes) -> Stated:
    said = png.facts(stream)
    if said.animated:
        raise Unsupported("its strips hold several images each; save it without compression")
    return Stated(said.width, said.height, 0, 16 if said.depth == 16 else 8, said.decoded_bytes)


def _webp(stream: bytes) -> Stated:
    kind = stream[12:16]
    if kind == b"VP8X":
        if stream[20] & 2:
            raise Unsupported("its strips hold several images each; save it without compression")
        width, height = (1 + int.from_bytes(stream[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(stream[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", stream, 26))
    else:
        raise Damage("a strip or tile is corrupt")
    if len(stream) < 8 + int.from_bytes(stream[4:8], "little"):
        raise Damage("a strip or tile is cut short")
    return Stated(width, height, 0, 8, 8)


def _jpeg2000(stream: bytes) -> Stated:
    said = jpeg2000.facts(stream, colours=False)
    jpeg2000.check(stream, said)
    return Stated(said.width, said.height, said.components, said.bits, said.decoded_bytes + said.working_bytes)


def _lerc(stream: bytes) -> Stated:
    """LERC 1 and 2 (Esri), which may be compressed once more; several blobs in a row are channels."""
    limit = 1 << 27
    if stream[:1] == b"\x78":
        try:
            stream = zlib.decompressobj().decompress(stream, limit)
        except zlib.error as problem:
            raise Damage("a strip or tile is corrupt") from problem
    elif stream.startswith(_ZSTANDARD):
        from imagecodecs import ZstdError, zstd_decode

        try:
            stream = bytes(zstd_decode(stream, out=min(limit, 1 << 12 if len(stream) < 64 else len(stream) * 1032)))
        except ZstdError as problem:
            raise Damage("a strip or tile is corrupt") from problem
    if stream.startswith(b"CntZImage "):
        height, width = struct.unpack_from("<ii", stream, 18)
        return Stated(width, height, 1, 32, 12)
    at, samples, first = 0, 0, Stated(0, 0)
    while stream.startswith(b"Lerc2 ", at):
        version = struct.unpack_from("<i", stream, at + 6)[0]
        place = at + (14 if version >= 3 else 10)
        height, width, deep = struct.unpack_from("<iii", stream, place)
        place += 12 if version >= 4 else 8
        _, _, size, kind = struct.unpack_from("<iiii", stream, place)
        if not 0 <= kind < len(_LERC_TYPES) or size < place + 16 - at:
            raise Damage("a strip or tile is corrupt")
        if at + size > len(stream):
            raise Damage("a strip or tile is cut short")
        if at and (width, height) != (first.width, first.height):
            raise Damage("a strip or tile is of another size than its picture inside")
        samples += deep if version >= 4 else 1
        first, at = Stated(width, height, samples, _LERC_TYPES[kind], 3 * samples * _LERC_TYPES[kind] / 8), at + size
    return first


def _jpegxr(stream: bytes) -> Stated:
    """A JPEG XR file; where it ends is stated, and is all by which one that is cut short is known."""
    if stream[:3] != b"II\xbc":
        raise Unsupported("strips of JPEG XR without a header, of which it is not known whether they are whole")
    at = struct.unpack_from("<I", stream, 4)[0]
    tags = {}
    for number in range(struct.unpack_from("<H", stream, at)[0]):
        tag, kind, count = struct.unpack_from("<HHI", stream, at + 2 + 12 * number)
        if count == 1:
            tags[tag] = struct.unpack_from("<H" if kind == 3 else "<I", stream, at + 10 + 12 * number)[0]
    start, length = tags.get(_XR_OFFSET, 0), tags.get(_XR_COUNT, 0)
    if not start or not length:
        raise Unsupported("strips of JPEG XR without a length, of which it is not known whether they are whole")
    if start + length > len(stream):
        raise Damage("a strip or tile is cut short")
    if stream[start : start + 8] != b"WMPHOTO\0":
        raise Damage("a strip or tile is corrupt")
    short = stream[start + 10] & 0x80  # SHORT_HEADER_FLAG
    width, height = (1 + side for side in struct.unpack_from(">HH" if short else ">II", stream, start + 12))
    if (width, height) != (tags.get(_XR_WIDTH), tags.get(_XR_HEIGHT)):
        raise Damage("a strip or tile states two sizes")
    return Stated(width, height, 0, 0, _KEPT)


class _Bits:
    """Bits of a JPEG XL codestream, the least significant first (ISO/IEC 18181-1, annex B)."""

    def __init__(self, stream: bytes) -> None:
        self.value, self.left = int.from_bytes(stream[:64], "little"), 8 * min(len(stream), 64)

    def take(self, count: int) -> int:
        if count > self.left:
            raise Damage("a strip or tile is cut short")
        found, self.value, self.left = self.value & ((1 << count) - 1), self.value >> count, self.left - count
        return found

    def number(self, *kinds: tuple[int, int]) -> int:
        """U32: an offset and so many bits more, of four kinds."""
        offset, bits = kinds[self.take(2)]
        return offset + self.take(bits)

    def size(self) -> tuple[int, int]:
        small = self.take(1)

        def side() -> int:
            return 8 * (1 + self.take(5)) if small else self.number((1, 9), (1, 13), (1, 18), (1, 30))

        height, ratio = side(), self.take(3)
        across, down = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
        return (height * across // down if ratio else side()), height


def _jpegxl(stream: bytes) -> Stated:
    """The codestream's size, and how deep it is (SizeHeader and ImageMetadata)."""
    bits = _Bits(_codestream(stream)[2:])
    width, height = bits.size()
    extra, depth = 0, 8
    if not bits.take(1):  # not all as usual
        if bits.take(1):
            if bits.take(3) > 3:  # turned by a quarter
                width, height = height, width
            if bits.take(1):
                bits.size()
            if bits.take(1) or bits.take(1):
                raise Unsupported("its strips hold previews or several images each; save it without compression")
        if bits.take(1):
            depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
            bits.take(4)
        else:
            depth = bits.number((8, 0), (10, 0), (12, 0), (1, 6))
        bits.take(1)
        extra = bits.number((0, 0), (1, 0), (2, 4), (1, 12))
    return Stated(width, height, 0, depth, _KEPT * (3 + extra))


def _codestream(stream: bytes) -> bytes:
    """Where a JPEG XL file is in boxes, the beginning of its codestream."""
    if stream.startswith(b"\xff\x0a"):
        return stream
    at = 0
    for _ in range(1000):
        if at + 8 > len(stream):
            break
        length, kind = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            found = stream[at + head + (4 if kind == b"jxlp" else 0) :][:66]
            if found.startswith(b"\xff\x0a"):
                return found
            break
        length = int.from_bytes(stream[at + 8 : at + 16], "big") if length == 1 else length
        if length < head:
            break
        at += length
    raise Damage("a strip or tile is corrupt")


_READERS: dict[int, Callable[[bytes], Stated]] = {
    **dict.fromkeys((7, 33007, 34892), _jpeg),
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg2000),
    **dict.fromkeys((34927, 50001), _webp),
    **dict.fromkeys((22610, 34934), _jpegxr),
    **dict.fromkeys((50002, 52546), _jpegxl),
    34887: _lerc,
    34933: _png,
}
