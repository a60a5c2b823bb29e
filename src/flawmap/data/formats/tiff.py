"""TIFF: pages, and where the pixels of the picture lie (TIFF 6.0, with BigTIFF and the technical notes of Adobe).

Our own reading of the directory says what a file holds before a decoder sees it, and counts pages without decoding.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import Damage, Unsupported

MAX_PAGES = 64  # smaller versions and masks kept with the image, at most; each page's directory is read
RAW, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA = 1, 5, 7, 8, 32946, 32773, 34925
# What an encoded byte can hold at most, in bytes. Compressions not named here have no such bound.
RATIOS = {RAW: 1, PACKBITS: 64, DEFLATE: 1032, OLD_DEFLATE: 1032, LZW: 2560}
NAMES = {
    2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", LZW: "LZW", 6: "old JPEG", JPEG: "JPEG", DEFLATE: "Deflate",
    PACKBITS: "PackBits", 32946: "Deflate", LZMA: "LZMA", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50000: "Zstandard",
    34926: "Zstandard", 50001: "WebP", 34927: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 1: "no",
}  # fmt: skip
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Page(NamedTuple):
    """The page that is the picture. `block` is (rows, columns) of a strip or tile; `bits` and `kind` (1 unsigned,
    2 signed, 3 float) hold for all samples; `extra`: ExtraSamples; `order`: "<" or ">"; `start`: where its directory
    lies; `first`: whether that is the first; `others`: further pages that are pictures of their own."""

    order: str
    width: int
    height: int
    samples: int
    bits: int
    kind: int
    photometric: int
    compression: int
    separate: bool
    extra: tuple[int, ...]
    predictor: int
    reversed_bits: bool
    orientation: int
    tiled: bool
    block: tuple[int, int]
    offsets: Numbers
    counts: Numbers
    tables: bytes
    colours: Numbers
    subsampling: tuple[int, ...]
    others: int
    start: int = 0
    first: bool = True

    @property
    def alpha(self) -> int:
        """ExtraSamples of the first sample beyond the colours: 0 none or not alpha, 1 laid on black, 2 not yet."""
        return self.extra[0] if self.extra and self.extra[0] in (1, 2) else 0

    @property
    def colour_count(self) -> int:
        """Samples that are colours, by the photometric interpretation."""
        return {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}.get(self.photometric, self.samples)


def read_page(data: bytes) -> Page:
    """Read the page that is the picture and count the others. Raises Damage, and Unsupported for too many pages.

    The picture is the first page that is no mask and no smaller version; of a file of these alone, the picture that a
    subdirectory of the first holds (as DNG has it), or else the first.
    """
    try:
        return _read_page(data)
    except (struct.error, IndexError, ValueError, OverflowError) as problem:
        raise Damage("its directory is corrupt") from problem


def with_picture_first(data: bytes, page: Page) -> bytes:
    """The same file for decoders that read the first page: its header names the directory of the picture."""
    if page.first:
        return data
    big = data[2:4] in (b"+\0", b"\0+")
    at, number = (
        (8, struct.pack(page.order + "Q", page.start)) if big else (4, struct.pack(page.order + "I", page.start))
    )
    return data[:at] + number + data[at + len(number) :]


def is_picture(tags: Mapping[int, Any]) -> bool:
    """Whether a directory's tags say neither that it is a smaller version nor that it is a mask."""
    kind, old = tags.get(254, 0), tags.get(255, 1)
    kind, old = (int(np.ravel(value)[0]) if np.size(value) else 0 for value in (kind, old))
    return not (kind & 5 or old == 2)


def _pages(data: bytes, order: str, big: bool) -> list[tuple[int, dict[int, Numbers]]]:
    """Offset and tags of each directory in the chain; where all are masks or smaller versions, of what is below the
    first, too."""
    following = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    found: list[tuple[int, dict[int, Numbers]]] = []
    seen = set[int]()

    def read(at: int) -> int:
        if at in seen:
            raise Damage("its pages form a circle")
        if len(seen) > MAX_PAGES:
            raise Unsupported(f"the file holds more than {MAX_PAGES} pages; save each image as a file of its own")
        seen.add(at)
        tags, following = _directory(data, at, order, big)
        found.append((at, tags))
        return following

    following = read(following)
    while following:
        following = read(following)
    if not any(is_picture(tags) for _, tags in found):
        for below in found[0][1].get(330, np.zeros(0, np.int64)).tolist():
            read(below)
    return found


def _read_page(data: bytes) -> Page:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    pages = _pages(data, order, big)
    pictures = [page for page in pages if is_picture(page[1])]
    start, tags = (pictures or pages)[0]
    others = max(len(pictures) - 1, 0)

    def one(tag: int, default: int = 0) -> int:
        values = tags.get(tag)
        return default if values is None or len(values) == 0 else int(values[0])

    width, height, samples = one(256), one(257), one(277, 1)
    if min(width, height, samples) <= 0 or samples > 1024:
        raise Damage("it states no size")
    bits, kinds = tags.get(258, np.array([1])), tags.get(339, np.array([1]))
    if one(262) == 8 and set(kinds.tolist()) == {1, 2}:  # CIELAB: a and b are signed, whether it is said or not
        kinds = np.array([1])
    if len(set(bits.tolist())) > 1 or len(set(kinds.tolist())) > 1:
        raise Unsupported("its channels differ in depth; save it with 8 or 16 bits each")
    tiled = 322 in tags
    rows, columns = (one(323), one(322)) if tiled else (min(one(278, height) or height, height), width)
    if rows <= 0 or columns <= 0 or (tiled and (rows > 1 << 20 or columns > 1 << 20)):
        raise Damage("its strips or tiles state no size")
    separate = one(284, 1) == 2 and samples > 1
    none = np.zeros(0, np.int64)
    extra = tuple(int(v) for v in tags.get(338, none))
    if 338 not in tags and samples == 4 and one(262) == 2:
        extra = (2,)  # OpenCV writes alpha so
    offsets = tags.get(324 if tiled else 273, none)
    counts = tags.get(325 if tiled else 279, none)
    return Page(
        order, width, height, samples, int(bits[0]), int(kinds[0]) if kinds[0] != 4 else 1,
        one(262, 1 if samples < 3 else 2), one(259, 1), separate, extra,
        one(317, 1), one(266, 1) == 2, one(274, 1), tiled, (rows, columns), offsets, counts,
        tags[347].astype(np.uint8).tobytes() if 347 in tags else b"", tags.get(320, none),
        tuple(int(v) for v in tags.get(530, [2, 2])), others, start, start == pages[0][0],
    )  # fmt: skip


def _directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, Numbers], int]:
    """The numeric tags of the directory at an offset, and the offset of the next, 0 for none."""
    head, entry, inline = (8, 20, 8) if big else (2, 12, 4)
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    if count > 4096 or at + head + count * entry > len(data):
        raise Damage("a directory lies beyond its end")
    tags: dict[int, Numbers] = {}
    for start in range(at + head, at + head + count * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, start)
        number = struct.unpack_from(order + ("Q" if big else "I"), data, start + 4)[0]
        if kind not in _CODES and kind != 7:
            continue
        place = start + (12 if big else 8)
        if number * _SIZES[kind] > inline:
            place = struct.unpack_from(order + ("Q" if big else "I"), data, place)[0]
        if place + number * _SIZES[kind] > len(data):
            if tag in _NEEDED:
                raise Damage("a list of its directory lies beyond its end")
            continue
        tags[tag] = np.frombuffer(data, order + _CODES.get(kind, "u1"), number, place).astype(np.int64, copy=False)
    ends = at + head + count * entry
    if ends + inline > len(data):
        return tags, 0  # some writers leave out the offset of no next page
    return tags, struct.unpack_from(order + ("Q" if big else "I"), data, ends)[0]


_NEEDED = frozenset((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 320, 322, 323, 324, 325, 338, 339, 347))


BY_EXTRA = frozenset((50000, 34926, 50001, 34927))  # Pillow reads 8 bits of these, the extra all and reports damage


def common(page: Page) -> bool:
    """Whether OpenCV or Pillow read such pixels right: 8 bits and fewer, of compressions that they know."""
    if page.kind != 1 or page.extra or page.compression not in {RAW, 2, 3, 4, LZW, 6, *_FAMILIAR}:
        return False
    if page.bits == 16:
        return page.samples == 1 and page.photometric == 1 and page.order == "<" and page.compression in BY_EXTRA
    return page.bits <= 8 and page.photometric in (0, 1, 2, 3, 5, 6) and page.samples == page.colour_count


_FAMILIAR = frozenset((JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA)) | BY_EXTRA


def block_bytes(page: Page, rows: int) -> int:
    """Bytes of `rows` rows of a strip or tile, decoded; each row starts at a byte."""
    together = 1 if page.separate else page.samples
    return rows * ((page.block[1] * together * page.bits + 7) // 8)


def check(data: bytes, page: Page) -> None:
    """See that strips or tiles lie in the file, as many and as long as the pixels need. Raises Damage."""
    rows, columns = page.block
    down, across = -(-page.height // rows), -(-page.width // columns)
    number = down * across * (page.samples if page.separate else 1)
    if len(page.offsets) < number:
        raise Damage(f"it lists {len(page.offsets)} of {number} strips or tiles")
    offsets, counts = page.offsets[:number], page.counts[:number]
    if len(counts) < number or (number == 1 and counts[0] == 0):
        if number > 1:
            raise Damage("it does not say how long its strips or tiles are")
        if not 0 < offsets[0] < len(data):
            raise Damage("truncated")
        return  # one strip of no stated length reaches to the end, and is heard by its decoder
    if (offsets <= 0).any() or (counts <= 0).any():
        raise Damage("a strip or tile is missing")
    if (offsets + counts > len(data)).any():
        raise Damage("truncated")
    if page.photometric == 6 and page.subsampling != (1, 1) and page.compression != JPEG:
        return  # subsampled: fewer bytes, and its decoder knows how many
    ratio = RATIOS.get(page.compression)
    if ratio is not None:
        last = rows if page.tiled else page.height - (down - 1) * rows
        needed = np.full(number, block_bytes(page, rows))
        if not page.tiled:
            needed[down - 1 :: down] = block_bytes(page, last)
        if (counts * ratio + (16 if ratio > 1 else 0) * ratio < needed).any():
            what = "are cut short" if ratio == 1 else "cannot hold so many pixels"
            raise Damage(f"its strips or tiles {what}")
    elif page.compression == JPEG and page.width * page.height > 512 * max(int(counts.sum()), 1):
        raise Damage(f"{page.width}x{page.height} pixels cannot lie in {int(counts.sum())} bytes")
