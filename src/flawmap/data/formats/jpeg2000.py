"""JPEG 2000: boxes, and the headers of the codestream (ITU-T T.800). OpenJPEG decodes, by way of OpenCV or Pillow.

OpenJPEG stops at tiles and packets that are cut short. What lies inside a code block carries no checksum. White is
2ⁿ - 1 of the precision in SIZ: OpenCV gives values as stored, Pillow shifts them up to 8 or 16 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import Damage, Unsupported

JP2, CODESTREAM = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
MAX_PIECES = 100_000  # boxes, segments and parts of tiles that are walked through, of each at most
SRGB, GREY, SYCC = 16, 17, 18  # enumerated colour spaces
_SOT, _SOD, _EOC, _COD = 0xFF90, 0xFF93, 0xFFD9, 0xFF52
_BLOCK = 400  # bytes that OpenJPEG keeps for a code block or precinct, at most


class Facts(NamedTuple):
    """What boxes and headers say. bits: of every component; space: the enumerated colour space, 0 unknown; alpha: the
    component that is opacity, -1 for none; laid: whether it is laid on black already; start: of the codestream;
    precincts, layers and blocks: of packets and code blocks, in pixels (log2) for the first and the last"""

    width: int
    height: int
    bits: int
    components: int
    space: int
    alpha: int
    laid: bool
    tiles: int
    layers: int
    precincts: tuple[int, int]
    blocks: tuple[int, int]
    start: int
    end: int

    @property
    def decoded_bytes(self) -> int:
        """Bytes a pixel once decoded."""
        return self.components * (2 if self.bits > 8 else 1)

    @property
    def working_bytes(self) -> float:
        """Bytes a pixel that decoding takes besides: 32 bits a component twice, and what is kept for each block."""
        area = 1 << min(sum(self.blocks), sum(self.precincts))
        return self.components * (8 + 2 * _BLOCK / area)


def is_jpeg2000(data: bytes) -> bool:
    """Whether the bytes begin as those of a JP2 or JPX file, or of a bare codestream."""
    return data.startswith((JP2, CODESTREAM))


def size(data: bytes) -> tuple[int, int]:
    """Columns and rows. Raises Damage without a header, Unsupported for a file without a picture of its own."""
    start, _, _ = _codestream(data)
    return _size(data, start)


def precision(data: bytes) -> int | None:
    """Bits of the first component; None where the header is not there or counts below 0."""
    try:
        start, _, _ = _codestream(data)
    except (Damage, Unsupported):
        return None
    return data[start + 42] + 1 if len(data) > start + 42 and data[start + 42] < 38 else None


def _size(data: bytes, start: int) -> tuple[int, int]:
    if len(data) < start + 45 or data[start : start + 4] != CODESTREAM:
        raise Damage("it has no header")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    return right - left, bottom - top


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of each box; the last may reach beyond `end` where it is cut short."""
    for _ in range(MAX_PIECES):
        if at + 8 > end:
            return
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or end - at
        if length < head:
            return
        yield kind, at + head, at + length
        at += length
    raise Unsupported(f"it holds more than {MAX_PIECES} boxes; save it anew")


def _codestream(data: bytes) -> tuple[int, int, tuple[int, int] | None]:
    """Where the codestream begins and ends, and the same of the box of headers."""
    if data.startswith(CODESTREAM):
        return 0, len(data), None
    streams, header, brand = [], None, b""
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            streams.append((start, end))
        elif kind == b"jp2h" and header is None:
            header = (start, end)
        elif kind == b"ftyp":
            brand = data[start : start + 4]
    if brand in (b"mjp2", b"mj2s"):
        raise Unsupported("it is a video (Motion JPEG 2000); save single pictures of it as PNG")
    if not streams:
        raise Damage("it holds no pixels")
    if len(streams) > 1:
        raise Unsupported("the file holds several images; save each as a file of its own")
    return *streams[0], header


def facts(data: bytes, colours: bool = True) -> Facts:
    """Read boxes and main header; nothing is decoded. `colours`: whether what the channels mean is read, too.

    Raises Damage for what is cut short or contradicts itself, Unsupported for kinds of pixels that are not read.
    """
    start, end, header = _codestream(data)
    width, height = _size(data, start)
    try:
        return _facts(data, start, end, header, width, height, colours)
    except (struct.error, IndexError) as problem:
        raise Damage("its header is corrupt") from problem


def _facts(
    data: bytes, start: int, end: int, header: tuple[int, int] | None, width: int, height: int, colours: bool
) -> Facts:
    right, bottom, _, _, across, down, left, top, components = struct.unpack_from(">8IH", data, start + 8)
    if min(across, down) <= 0 or components == 0:
        raise Damage("its header is corrupt")
    tiles = -(-(right - left) // across) * -(-(bottom - top) // down)
    if not 0 < tiles <= 65535:
        raise Damage(f"it states {tiles} tiles")
    kinds = [data[start + 42 + 3 * number : start + 45 + 3 * number] for number in range(components)]
    depth = kinds[0][0]
    if depth & 0x80:
        raise Unsupported("its values are signed integers; shift them to unsigned 8 or 16 bits")
    if any(kind[0] != depth for kind in kinds):
        raise Unsupported("its channels differ in depth; save it with 8 or 16 bits each")
    if any(kind[1:] != b"\x01\x01" for kind in kinds):
        raise Unsupported("its colours are stored at fewer pixels than their brightness; save it as PNG")
    if depth >= 16:
        raise Unsupported(f"its values are integers of {depth + 1} bits; scale them to 16 bits")
    space, alpha, laid = _colours(data, header, components) if colours else (0, -1, False)
    layers, precincts, blocks = _packets(data, start, end)
    return Facts(
        width, height, depth + 1, components, space, alpha, laid, tiles, layers, precincts, blocks, start, end
    )  # fmt: skip


def _colours(data: bytes, header: tuple[int, int] | None, components: int) -> tuple[int, int, bool]:
    """Colour space, which component is alpha, and whether that is laid on black already."""
    space, alpha, laid = 0, -1, False
    for kind, at, end in _boxes(data, *header) if header else ():
        if kind == b"colr" and data[at] == 1 and not space:
            space = int.from_bytes(data[at + 3 : at + 7], "big")
        elif kind == b"pclr":
            raise Unsupported("its colours lie in a palette; save it as PNG")
        elif kind == b"cdef":
            for number in range(int.from_bytes(data[at : at + 2], "big")):
                if at + 8 + 6 * number > end:
                    break
                component, use, _ = struct.unpack_from(">3H", data, at + 2 + 6 * number)
                if use in (1, 2) and component < components:
                    alpha, laid = component, use == 2
    if space not in (0, SRGB, GREY, SYCC):
        raise Unsupported(f"its colours are of an unusual kind (colour space {space}); save it as RGB")
    if components > (2 if space == GREY else 4):
        raise Unsupported(f"it has {components} channels (multispectral); save those to inspect as grey or colour")
    if alpha >= 0 and alpha != components - 1:
        raise Unsupported("its alpha is not the last channel; save it as PNG")
    return space, alpha, laid


def _packets(data: bytes, start: int, end: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Layers, the size of precincts at full resolution and that of code blocks, by the main header's COD."""
    at = start + 2
    for _ in range(MAX_PIECES):
        if at + 4 > min(end, len(data)):
            break
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _SOT:
            break
        if marker == _COD:
            style, _, layers, _, levels, wide, high = struct.unpack_from(">BBHBBBB", data, at + 4)
            precincts = (15, 15)
            if style & 1:
                last = data[at + 14 + levels]
                precincts = (last & 15, last >> 4)
            return layers, precincts, ((wide & 15) + 2, (high & 15) + 2)
        at += 2 + length
    raise Damage("its header ends early")


def check(data: bytes, said: Facts) -> None:
    """See that all tiles lie in the file, and that its bytes can hold the packets. Raises Damage.

    Every packet, of a precinct and a layer, takes a byte at least, so that few bytes cannot make a decoder keep much.
    """
    wide, high = (1 << side for side in said.precincts)
    packets = -(-said.width // wide) * -(-said.height // high) * said.components * said.layers
    if packets > len(data):
        raise Damage(f"{packets} packets cannot lie in {len(data)} bytes")
    if said.end > len(data):
        raise Damage("truncated")
    at, found, pieces = said.start + 2, dict[int, int](), 0  # found: by tile, parts that are still to come
    while at + 2 <= said.end:
        pieces += 1
        if pieces > MAX_PIECES + said.tiles:
            raise Unsupported(f"it holds more than {MAX_PIECES} parts of tiles; save it anew")
        marker = int.from_bytes(data[at : at + 2], "big")
        if marker == _EOC:
            break
        if at + 12 > said.end:
            raise Damage("truncated")
        if marker != _SOT:
            if found:
                raise Damage("its tiles do not follow one another")
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            continue
        tile, length, _, number = struct.unpack_from(">HIBB", data, at + 4)
        found[tile] = found.get(tile, number) - 1
        if length == 0:
            break
        if length < 14:
            raise Damage("its tiles do not follow one another")
        at += length
    if at > said.end or len(found) < said.tiles or max(found.values()) > 0:
        raise Damage("truncated")


def at_full_scale(pixels: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Pixels of fewer than 8 bits that were shifted up to 8 -> uint8 with white at 255."""
    table = np.rint((np.arange(256) >> (8 - bits)) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    return np.asarray(table[pixels])
