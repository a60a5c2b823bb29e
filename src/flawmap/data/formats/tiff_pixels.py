"""Pixels of a TIFF, strip by strip, so that a decoder's complaint about any of them is heard (TIFF 6.0).

OpenCV and Pillow go on in silence where a strip of 8-bit colour ends early, and take planes for pixels. What is read
here: samples of 1 to 16 bits and floating point, in one plane or several, uncompressed, Deflate, LZMA, LZW, PackBits
and JPEG. LZW and PackBits are undone by OpenCV's libtiff, handed the same strips as rows of 16-bit grey: that way
alone it reports errors.
"""

from __future__ import annotations

import lzma
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from flawmap.data.formats import Damage, jpeg
from flawmap.data.formats.tiff import DEFLATE, JPEG, LZMA, LZW, OLD_DEFLATE, PACKBITS, RAW, Page, block_bytes

Array = np.ndarray[Any, np.dtype[Any]]
Libtiff = Callable[[Array], Array | None]

_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_SCRATCH = threading.local()  # on many machines fresh memory costs as much as decoding into it
_KEPT = 1 << 26


def readable(page: Page) -> bool:
    """Whether `decode` reads this kind of page."""
    if page.compression not in (RAW, DEFLATE, OLD_DEFLATE, LZMA, LZW, PACKBITS, JPEG):
        return False
    if page.photometric not in (0, 1, 2, 3, 4, 5, 8, 9) and not (page.photometric == 6 and page.compression == JPEG):
        return False
    if page.compression == JPEG:
        return page.bits == 8 and page.kind == 1 and not page.separate and page.samples in (1, 3)
    if page.kind == 3:
        return page.bits in (16, 32, 64) and page.predictor in (1, 3)
    if page.kind == 2:
        return page.bits in (8, 16, 32) and page.predictor in (1, 2)
    plain = page.bits in (8, 16, 32)
    return (
        page.kind == 1 and (plain or 1 <= page.bits < 16) and (page.predictor == 1 or (plain and page.predictor == 2))
    )


def working_bytes(page: Page) -> int:
    """Bytes a pixel that are held at most until the picture is put together, by this reader or another."""
    wide = -(-page.bits // 8)
    each = 2 * page.samples * wide + (12 if page.alpha or page.kind == 3 else 0)
    return max(each, {3: 7, 5: 24, 8: 13 * wide, 9: 13 * wide}.get(page.photometric, 0))


def decode(data: bytes, page: Page, libtiff: Libtiff, strict: bool = True) -> Array:
    """(H, W, samples), as stored: unsigned, signed or float, channels in the file's order, packed bits as integers.

    `libtiff` decodes the bytes of a TIFF of 16-bit grey. Raises Damage for a strip that is corrupt or too short;
    without `strict` what is missing stays 0.
    """
    rows, columns = page.block
    across, down = -(-page.width // columns), -(-page.height // rows)
    together = 1 if page.separate else page.samples
    if strict and page.compression in (RAW, DEFLATE, OLD_DEFLATE, LZMA) and not page.tiled and not page.separate:
        return _of_strips(data, page)
    in_rows = page.compression in (LZW, PACKBITS) and not page.tiled and not page.separate
    if in_rows and strict and block_bytes(page, 1) % 2 == 0:
        return _whole(data, page, libtiff)
    pixels = np.zeros((page.height, page.width, page.samples), _dtype(page).newbyteorder("="))
    undone = _undo(data, page, libtiff, strict) if page.compression in (LZW, PACKBITS) else None
    for number in range(across * down * (page.samples if page.separate else 1)):
        plane, place = divmod(number, across * down)
        top, left = place // across * rows, place % across * columns
        high, wide = min(rows, page.height - top), min(columns, page.width - left)
        tall = rows if page.tiled else high
        try:
            block = _block(data, page, number, tall) if undone is None else undone(number, tall)
            if not isinstance(block, np.ndarray):
                block = _samples(block, page, tall, columns, together)
        except Damage:
            if strict:
                raise
            continue
        into = pixels[top : top + high, left : left + wide]
        if page.separate:
            into[:, :, plane] = block[:high, :wide, 0]
        else:
            into[...] = block[:high, :wide]
    return pixels


def _of_strips(data: bytes, page: Page) -> Array:
    """Strips put together before their numbers are made of them all at once: some writers make one for each row."""
    found = np.empty(block_bytes(page, page.height), np.uint8)
    if _adjoin(page):
        start = int(page.offsets[0])
        if len(data) < start + len(found):
            raise Damage("a strip or tile is cut short")
        found[:] = np.frombuffer(data, np.uint8, len(found), start)
    else:
        at = 0
        for number, top in enumerate(range(0, page.height, page.block[0])):
            high = min(page.block[0], page.height - top)
            size = block_bytes(page, high)
            found[at : at + size] = np.frombuffer(_block(data, page, number, high), np.uint8, size)
            at += size
    samples = _samples(found.data, page, page.height, page.width, page.samples)
    return np.asarray(samples, _dtype(page).newbyteorder("="))


def _adjoin(page: Page) -> bool:
    """Whether uncompressed strips lie one after another, so that they are one."""
    if page.compression != RAW or page.reversed_bits:
        return False
    number = -(-page.height // page.block[0])
    offsets, counts = page.offsets[: number - 1], page.counts[: number - 1]
    whole = block_bytes(page, page.block[0])
    return len(counts) == number - 1 and bool(
        (counts == whole).all() and (offsets + counts == page.offsets[1:number]).all()
    )


def _dtype(page: Page) -> np.dtype[Any]:
    width = page.bits // 8 if page.bits in (8, 16, 32, 64) else 1 if page.bits < 8 else 2
    return np.dtype(page.order + {1: "u", 2: "i", 3: "f"}[page.kind] + str(width))


def _stored(data: bytes, page: Page, number: int) -> memoryview:
    start = int(page.offsets[number])
    count = int(page.counts[number]) if number < len(page.counts) and page.counts[number] else len(data) - start
    return memoryview(data)[start : start + count]


def _block(data: bytes, page: Page, number: int, tall: int) -> bytes | memoryview | Array:
    """One strip or tile: its bytes, or its samples where a JPEG holds them."""
    stored, needed = _stored(data, page, number), block_bytes(page, tall)
    if page.compression == JPEG:
        return _jpeg(stored, page, tall)
    if page.reversed_bits:
        stored = memoryview(bytes(stored).translate(_MIRRORED))
    if page.compression == RAW:
        found: bytes | memoryview = stored
    else:
        try:
            if page.compression == LZMA:
                found = lzma.LZMADecompressor().decompress(stored, needed + 1)
            else:
                engine = zlib.decompressobj()
                found = engine.decompress(stored, needed + 1)
                spare = block_bytes(page, page.block[0]) + (1 << 16)  # the last strip may hold all rows
                while not engine.eof and engine.unconsumed_tail and spare > 0:  # to hear the checksum at its end
                    spare -= len(engine.decompress(engine.unconsumed_tail, 1 << 16)) or spare
                if len(found) > needed and not engine.eof:
                    raise Damage("a strip or tile is corrupt")
        except (zlib.error, lzma.LZMAError, EOFError) as problem:
            raise Damage(f"a strip or tile is corrupt: {str(problem).split(': ', 1)[-1]}") from problem
    if len(found) < needed:
        raise Damage("a strip or tile is cut short")
    return found


def _jpeg(stored: memoryview, page: Page, tall: int) -> Array:
    """A strip or tile that is a JPEG, its tables kept once for all; the colours are those that the page states."""
    body = bytes(stored)
    if not body.startswith(b"\xff\xd8"):
        raise Damage("a strip or tile is corrupt")
    marker = b"" if page.samples == 1 else b"\xff\xee\x00\x0eAdobe\x00d\0\0\0\0" + bytes([page.photometric == 6])
    body = b"\xff\xd8" + marker + page.tables.removeprefix(b"\xff\xd8").removesuffix(b"\xff\xd9") + body[2:]
    if not body.endswith(b"\xff\xd9") and b"\xff\xd9" not in body[-16:]:
        raise Damage("a strip or tile is cut short")
    said = jpeg.facts(body)
    jpeg.check(body, said)
    heights = (tall, page.block[0])  # the last strip may be as high as the others, as libtiff has it
    if said.width != page.block[1] or said.height not in heights or said.components != page.samples:
        raise Damage("a strip or tile is of another size than its picture inside")
    pixels = jpeg.decode(body, said, order="RGB")
    if pixels is None:
        raise Damage("a strip or tile is corrupt")
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _samples(found: bytes | memoryview, page: Page, tall: int, columns: int, together: int) -> Array:
    """Bytes -> (tall, columns, together), the predictor undone."""
    if page.bits not in (8, 16, 32, 64):
        return _unpacked(np.frombuffer(found, np.uint8, block_bytes(page, tall)), page, tall, columns, together)
    count = tall * columns * together
    if page.predictor == 3:
        return _floats(np.frombuffer(found, np.uint8, count * page.bits // 8), page, tall, columns, together)
    samples: Array = np.frombuffer(found, _dtype(page), count).reshape(tall, columns, together)
    if page.predictor == 2:
        samples = np.cumsum(samples, axis=1, dtype=_dtype(page).newbyteorder("="))
    return samples


def _floats(found: Array, page: Page, tall: int, columns: int, together: int) -> Array:
    """Undo the floating-point predictor: differences of bytes, the most significant of all numbers first."""
    width = page.bits // 8
    rows = np.cumsum(found.reshape(tall, -1, together), axis=1, dtype=np.uint8).reshape(tall, width, -1)
    whole = np.ascontiguousarray(rows.transpose(0, 2, 1)).view(f">f{width}")
    return whole.reshape(tall, columns, together)


def _unpacked(found: Array, page: Page, tall: int, columns: int, together: int) -> Array:
    """Packed bits, the most significant first, a row at a byte's start -> integers."""
    rows = found.reshape(tall, -1)
    out = np.empty((tall, columns * together), np.uint8 if page.bits < 8 else np.uint16)
    weights = (1 << np.arange(page.bits - 1, -1, -1)).astype(np.uint16)
    step = max(1, (1 << 20) // max(rows.shape[1], 1))
    for top in range(0, tall, step):  # eight bytes a bit are needed meanwhile
        bits = np.unpackbits(rows[top : top + step], axis=1)[:, : columns * together * page.bits]
        out[top : top + step] = bits.reshape(len(bits), -1, page.bits) @ weights
    return out.reshape(tall, columns, together)


def _whole(data: bytes, page: Page, libtiff: Libtiff) -> Array:
    """All strips of whole rows at once: they are the picture, without a copy."""
    lines = _grey(
        data, page, list(range(-(-page.height // page.block[0]))), block_bytes(page, 1) // 2, 16, libtiff, page
    )
    flat = lines.reshape(-1).view(np.uint8).data  # not bytes, so that channels can be swapped in place
    samples = _samples(flat, page, page.height, page.width, page.samples)
    return np.asarray(samples, _dtype(page).newbyteorder("="))


def _undo(data: bytes, page: Page, libtiff: Libtiff, strict: bool) -> Callable[[int, int], bytes | memoryview]:
    """LZW or PackBits of all strips: a function that gives the bytes of one of so many rows."""
    rows, columns = page.block
    across, down = -(-page.width // columns), -(-page.height // rows)
    number = across * down * (page.samples if page.separate else 1)
    last = rows if page.tiled else page.height - (down - 1) * rows
    short = [] if last == rows else list(range(down - 1, number, down))
    whole = sorted(set(range(number)) - set(short))
    found: dict[int, memoryview] = {}
    for chosen, tall in ((whole, rows), (short, last)):
        if chosen:
            try:
                lines = _lines(data, page, chosen, block_bytes(page, tall), libtiff)
            except Damage:
                if strict:
                    raise
                continue
            found.update((place, memoryview(line)) for place, line in zip(chosen, lines, strict=True))

    def block(place: int, _: int) -> memoryview:
        if place not in found:
            raise Damage("a strip or tile is corrupt or cut short")
        return found[place]

    return block


def _lines(data: bytes, page: Page, chosen: list[int], length: int, libtiff: Libtiff) -> Array:
    """(strips, length) uint8: the chosen strips, each a row of 16-bit grey to libtiff, by a directory of our own."""
    even = length - length % 2
    lines = _grey(data, page, chosen, even // 2, 16, libtiff).view(np.uint8) if even else None
    if length != even:  # the last byte by way of 8 bits, which reports nothing
        odd = _grey(data, page, chosen, length, 8, libtiff)
        if lines is not None and not np.array_equal(odd[:, :even], lines):
            raise Damage("a strip or tile is corrupt")
        lines = odd
    assert lines is not None and lines.shape == (len(chosen), length)
    return lines


def _grey(
    data: bytes, page: Page, chosen: list[int], width: int, bits: int, libtiff: Libtiff, strips: Page | None = None
) -> Array:
    """The chosen strips as rows of so many numbers of grey, or with `strips` of as many rows as they have."""
    height, rows = (len(chosen), 1) if strips is None else (strips.height, strips.block[0])
    tags: list[tuple[int, Any]] = [(256, [width]), (257, [height]), (258, [bits]), (259, [page.compression])]
    tags += [
        (262, [1]),
        (266, [2 if page.reversed_bits else 1]),
        (273, page.offsets[chosen]),
        (277, [1]),
        (278, [rows]),
    ]
    counts = page.counts[chosen] if len(page.counts) else [len(data) - int(page.offsets[0])]
    tags += [(279, counts), (284, [1])]
    start = len(data) + len(data) % 2
    end = start + 2 + 12 * len(tags) + 4
    entries, lists = struct.pack("<H", len(tags)), b""
    for tag, values in tags:
        raw = np.asarray(values, "<u4").tobytes()
        where = raw if len(raw) == 4 else struct.pack("<I", end + len(lists))
        lists += raw if len(raw) > 4 else b""
        entries += struct.pack("<HHI", tag, 4, len(raw) // 4) + where
    size = end + len(lists)
    if size >= 1 << 32:
        raise Damage("too large for a TIFF of its compression")
    file = _scratch(size)
    file[: len(data)] = np.frombuffer(data, np.uint8)
    file[:8] = np.frombuffer(struct.pack("<2sHI", b"II", 42, start), np.uint8)
    file[start:size] = np.frombuffer(entries + bytes(4) + lists, np.uint8)
    found = libtiff(file)
    if found is None or found.shape != (height, width):
        raise Damage("a strip or tile is corrupt or cut short")
    return found


def _scratch(size: int) -> Array:
    kept: Array | None = getattr(_SCRATCH, "bytes", None)
    if kept is None or len(kept) < size:
        kept = np.empty(size, np.uint8)
        if size <= _KEPT:
            _SCRATCH.bytes = kept
    return kept[:size]
