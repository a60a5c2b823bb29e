"""PBM, PGM, PPM and PAM, plain and raw (netpbm's manual pages pbm, pgm, ppm, pam): whole, and white at their maxval.

Pillow stretches another maxval than 255 to the full scale of its type and OpenCV does not, and both read past what is
missing. The raster is numbers one after another, so it is read here.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import Damage, Unsupported

Array = np.ndarray[Any, np.dtype[Any]]

SEVERAL = "the file holds several images; save each as a file of its own"
_NUMBER = re.compile(rb"(?:\s|#[^\n]*\n)*(\d{1,9})")
_START = re.compile(rb"P(?:[1-6](?=[\s#])(?:\s|#[^\n]*\n)*\d|7\n(?:#[^\n]*\n)*(?:WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE) )")
_ENTRY = re.compile(rb"(?:\s|#[^\n]*\n)*([A-Z]+)[ \t]*([^\n]*)\n")
_ANOTHER = re.compile(rb"\s*P[1-7][\s#]")
_COMMENT = re.compile(rb"#[^\n]*")
_SPACES = b" \t\n\v\f\r"


class Facts(NamedTuple):
    """What the header says. maxval: the value of white, 1 in a bitmap; channels: with alpha, the last, where there is
    one; start: where the raster lies"""

    width: int
    height: int
    maxval: int
    channels: int
    bitmap: bool
    plain: bool
    start: int
    alpha: bool = False

    @property
    def decoded_bytes(self) -> int:
        """Bytes a pixel once decoded."""
        return self.channels * (2 if self.maxval > 255 else 1)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a raw raster."""
        return (self.width + 7) // 8 if self.bitmap else self.width * self.decoded_bytes


def is_pnm(data: bytes) -> bool:
    """Whether the bytes begin as one of the seven kinds, with a number or an entry of PAM after the mark."""
    return _START.match(data) is not None


def facts(data: bytes) -> Facts:
    """Read the header, comments left out. Raises Damage when it is incomplete or states an impossible maxval."""
    if data[1:2] == b"7":
        return _pam(data)
    kind, at, numbers = data[1:2], 2, list[int]()
    bitmap, plain = kind in b"14", kind in b"123"
    for _ in range(2 if bitmap else 3):
        found = _NUMBER.match(data, at)
        if found is None:
            raise Damage("its header is cut short or no number")
        numbers.append(int(found[1]))
        at = found.end()
    width, height, maxval = (*numbers, 1)[:3]
    _check_maxval(maxval)
    if data[at : at + 1] == b"#":  # a comment ends the header
        at = data.find(b"\n", at)
    elif data[at : at + 1] not in (b" ", b"\t", b"\n", b"\v", b"\f", b"\r"):
        raise Damage("its header is cut short or no number")
    said = Facts(width, height, maxval, 3 if kind in b"36" else 1, bitmap, plain, at + 1)
    if data[at : at + 2] == b"\r\n" and not plain and len(data) == at + 2 + height * said.row_bytes:
        return said._replace(start=at + 2)  # written as text under Windows
    return said


def _check_maxval(maxval: int) -> None:
    if not 1 <= maxval <= 65535:
        raise Damage(f"its maxval is {maxval}, where 1 to 65535 can be")


def _pam(data: bytes) -> Facts:
    """Header of PAM: entries in any order, to ENDHDR."""
    at, entries = 3, dict[bytes, bytes]()
    while (found := _ENTRY.match(data, at)) is not None:
        at = found.end()
        if found[1] == b"ENDHDR":
            break
        entries[found[1]] = found[2].strip()
    try:
        width, height, channels, maxval = (int(entries[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError) as problem:
        raise Damage("its header is cut short or no number") from problem
    if found is None:
        raise Damage("its header is cut short or no number")
    _check_maxval(maxval)
    if not 1 <= channels <= 4:
        raise Unsupported(f"it has {channels} channels (multispectral); save those to inspect as grey or colour")
    alpha = entries.get(b"TUPLTYPE", b"").endswith(b"_ALPHA") and channels in (2, 4)
    return Facts(width, height, maxval, channels, False, False, at, alpha)


def check(data: bytes, said: Facts) -> None:
    """Refuse what can be told without decoding. Raises Damage for a raster cut short, Unsupported for several images.

    A number of a plain raster takes two bytes at least, in a bitmap one.
    """
    have, numbers = len(data) - said.start, said.width * said.height * said.channels
    shortest = numbers if said.bitmap else 2 * numbers - 1
    needed = shortest if said.plain else said.height * said.row_bytes
    if have < needed:
        raise Damage("truncated")
    if not said.plain and _ANOTHER.match(data, said.start + needed, said.start + needed + 100):
        raise Unsupported(SEVERAL)


def decode(data: bytes, said: Facts, strict: bool = True) -> Array:
    """(H, W) or (H, W, C) in RGB order: uint8 at full scale for a maxval of up to 255, else uint16 as stored.

    A set bit of a bitmap is black. Raises Damage for numbers that are missing, above the maxval or none, and
    Unsupported for several images; without `strict` what is missing is 0 and what is above white is white.
    """
    shape = (said.height, said.width, said.channels)[: 2 if said.channels == 1 else 3]
    if said.plain:
        pixels = _plain(data, said, strict).reshape(shape)
    elif said.bitmap:
        rows = _raster(data, said.start, said.height * said.row_bytes, np.dtype(np.uint8))
        pixels = np.unpackbits(rows.reshape(said.height, -1), axis=1, count=said.width)
    else:
        kind = np.dtype(np.uint8 if said.maxval <= 255 else ">u2")
        pixels = _raster(data, said.start, said.height * said.row_bytes, kind).reshape(shape)
        pixels = pixels.astype(kind.newbyteorder("="), copy=False)
    if said.bitmap:
        return (1 - pixels) * np.uint8(255)
    if said.maxval not in (255, 65535) and int(pixels.max()) > said.maxval:
        if strict:
            raise Damage(f"its values exceed the maxval {said.maxval} that it states")
        pixels = np.minimum(pixels, said.maxval).astype(pixels.dtype)
    if said.maxval < 255:
        scale = np.rint(np.minimum(np.arange(256) * (255 / said.maxval), 255)).astype(np.uint8)
        return np.asarray(scale[pixels])
    return pixels


def as_stored(pixels: Array, said: Facts) -> Array:
    """The numbers of the file again, of what `decode` brought to the full scale of 8 bits; bitmaps stay as decoded."""
    if said.bitmap or said.maxval >= 255:
        return pixels
    table = np.rint(np.arange(256) * (said.maxval / 255)).astype(np.uint8)
    return np.asarray(table[pixels])


def _raster(data: bytes, start: int, size: int, kind: np.dtype[Any]) -> Array:
    """The numbers of a raw raster, zeros for what is missing."""
    found = data[start : start + size]
    return np.frombuffer(found + bytes(size - len(found)), kind)


def _plain(data: bytes, said: Facts, strict: bool) -> Array:
    """The numbers of a plain raster."""
    text = data[said.start :]
    if b"#" in text:
        text = _COMMENT.sub(b"", text)
    count = said.width * said.height * said.channels
    foreign = text.translate(None, b"0123456789" + _SPACES)
    if foreign:
        if _ANOTHER.search(text):
            raise Unsupported(SEVERAL)
        if strict:
            raise Damage("its raster holds what is no number")
        text = text[: text.find(foreign[:1])]
    if said.bitmap:  # digits need no space between them
        digits = np.frombuffer(text.translate(None, _SPACES), np.uint8)[:count] - ord("0")
        if strict and digits.max(initial=0) > 1:
            raise Damage("its values are not 0 or 1")
        numbers = np.minimum(digits, 1)
    else:
        numbers = np.fromstring(text.decode("ascii"), np.int64, sep=" ")[:count] if text.strip() else np.zeros(0, int)
        numbers = np.minimum(numbers, 65535)
    if len(numbers) < count:
        if strict:
            raise Damage("truncated")
        numbers = np.concatenate([numbers, np.zeros(count - len(numbers), numbers.dtype)])
    wide = np.uint8 if said.maxval <= 255 and int(numbers.max(initial=0)) <= 255 else np.uint16
    if wide == np.uint16 and said.maxval <= 255:
        if strict:
            raise Damage(f"its values exceed the maxval {said.maxval} that it states")
        return np.minimum(numbers, said.maxval).astype(np.uint8)
    return numbers.astype(wide)
