"""Lossless JPEG (ITU-T T.81, process 14), as DICOM holds it: whether the bytes are those of the decoded pixels.

No decoder at hand says that a piece is missing or overwritten: all read on to some other picture. But the pixels tell
how many bits they take in the file's own Huffman codes, and those must be as many as there are.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import Damage, Unsupported

Array = np.ndarray[Any, np.dtype[Any]]

_SOF3, _DHT, _SOS, _EOI, _DRI = 0xC3, 0xC4, 0xDA, 0xD9, 0xDD
_ROWS = 256  # at a time


class Scan(NamedTuple):
    """The only scan: where its bits lie, `lengths` of the codes of each component's categories, 0 for none."""

    precision: int
    predictor: int
    shift: int
    lengths: tuple[Array, ...]
    start: int


def check(data: bytes, pixels: Array) -> None:
    """See that `pixels` (H, W) or (H, W, C), decoded from `data`, take the bits that it holds.

    Raises Damage where they do not, Unsupported for several scans and restarts.
    """
    try:
        scan = _scan(data)
    except (struct.error, IndexError) as problem:
        raise Damage("its header is corrupt") from problem
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if planes.shape[2] != len(scan.lengths):
        raise Damage("its header contradicts its pixels")
    bits = sum(_bits(planes[:, :, number], scan, codes) for number, codes in enumerate(scan.lengths))
    held = _held(data, scan.start)
    if not 0 <= held - -(-bits // 8) <= 1:  # one byte of padding more does no harm
        raise Damage("a piece of its compressed pixels is missing or corrupt")


def _scan(data: bytes) -> Scan:
    at, precision, tables, restarts = 2, 0, dict[int, Array](), 0
    while data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
            continue
        if marker == _SOF3:
            precision, components = data[at + 4], data[at + 9]
            if any(data[at + 11 + 3 * number] != 0x11 for number in range(components)):
                raise Unsupported("lossless JPEG with colours at fewer pixels; save it without compression")
        elif marker == _DHT:
            tables |= _tables(data[at + 4 : at + 2 + length])
        elif marker == _DRI:
            (restarts,) = struct.unpack_from(">H", data, at + 4)
        elif marker == _SOS:
            count = data[at + 4]
            chosen = [data[at + 6 + 2 * number] >> 4 for number in range(count)]
            if restarts or not precision or any(number not in tables for number in chosen):
                raise Unsupported("lossless JPEG with restarts or without its tables; save it without compression")
            end = at + 5 + 2 * count
            lengths = tuple(tables[number] for number in chosen)
            return Scan(precision, data[end], data[end + 2] & 15, lengths, at + 2 + length)
        at += 2 + length
    raise Damage("its header is corrupt")


def _tables(body: bytes) -> dict[int, Array]:
    """Lengths of the codes of the categories 0 to 16, by the number of the table."""
    found, at = {}, 0
    while at + 17 <= len(body):
        lengths, place = np.zeros(17, np.int64), at + 17
        for length, count in enumerate(body[at + 1 : at + 17], 1):
            for category in body[place : place + count]:
                lengths[min(category, 16)] = length
            place += count
        found[body[at] & 15] = lengths
        at = place
    return found


def _bits(plane: Array, scan: Scan, codes: Array) -> int:
    """Bits that one component (H, W) takes: the code of each difference's category, and as many bits as that says."""
    total = 0
    for top in range(0, len(plane), _ROWS):
        above = max(top - 1, 0)
        values = plane[above : top + _ROWS].astype(np.int64) >> scan.shift
        guess = np.empty_like(values)
        guess[0, 0], guess[0, 1:] = 1 << (scan.precision - scan.shift - 1), values[0, :-1]
        guess[1:, 0] = values[:-1, 0]
        guess[1:, 1:] = _guess(scan.predictor, values[1:, :-1], values[:-1, 1:], values[:-1, :-1])
        off = ((values - guess + 32768) & 0xFFFF)[top - above :] - 32768
        category = np.ceil(np.log2(np.abs(off) + 1)).astype(np.int64)
        category[off == -32768] = 16
        counts = np.bincount(category.ravel(), minlength=17)
        if (counts[codes == 0] > 0).any():
            raise Damage("a piece of its compressed pixels is missing or corrupt")
        total += int(counts @ (codes + np.where(np.arange(17) < 16, np.arange(17), 0)))
    return total


def _guess(predictor: int, left: Array, above: Array, corner: Array) -> Array:
    """Table H.1 of T.81."""
    ways: dict[int, Array] = {
        1: left, 2: above, 3: corner, 4: left + above - corner, 5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1), 7: (left + above) >> 1,
    }  # fmt: skip
    if predictor not in ways:
        raise Damage("its header is corrupt")
    return ways[predictor]


def _held(data: bytes, start: int) -> int:
    """Bytes between the scan's header and the end mark, without those that are put in after FF."""
    end = start
    while True:
        end = data.find(b"\xff", end)
        if end < 0 or end + 1 >= len(data):
            raise Damage("truncated")
        if data[end + 1] != 0:
            break
        end += 2
    mark = data[end:].lstrip(b"\xff")[:1]
    if mark != bytes([_EOI]):
        raise Unsupported("lossless JPEG in several scans; save it without compression")
    return end - start - data.count(b"\xff\0", start, end)
