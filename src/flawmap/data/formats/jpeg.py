"""JPEG: headers, scans, and a decoder whose warnings are heard (ITU-T T.81; libjpeg-turbo by way of simplejpeg).

OpenCV and Pillow swallow libjpeg's warnings, by which alone a missing or overwritten piece is known. simplejpeg runs
the same decoder, to the same pixels, and can be told to stop at a warning. Three warnings are no damage: an unknown
JFIF revision, spectral selection that a sequential file need not state, and padding before the end mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from flawmap.data.formats import Damage, Unsupported

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

MAX_SCANS = 100  # encoders write 1 to 17; each is a walk through the whole picture
# A block of 8 x 8 takes a bit at least, in a progressive file too; arithmetic coding has no such bound.
PIXELS_PER_BYTE = 512

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_LS = 0xF7  # the start of a frame of JPEG-LS (ITU-T T.87)
# By which files say that more follows the picture: other views, gain maps, a video, a phone's own data.
_MORE = (b"MPF\0", b"MotionPhoto", b"MicroVideo", b"hdrgm", b"Container:Directory", b"urn:iso:std:iso:ts:21496")
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


class Facts(NamedTuple):
    """What the headers say: size and depth in pixels and bits, `frame` the SOF marker, `first_scan` its offset,
    `several` whether that scan holds fewer components than the picture."""

    width: int
    height: int
    precision: int
    components: int
    frame: int
    first_scan: int
    several: bool


def facts(data: bytes) -> Facts:
    """Read the segments before the first scan. Raises Damage when they end early or hold no frame, Unsupported for
    JPEG-LS."""
    at, frame = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker in (0xFF, 0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _LS:
            raise Unsupported("it is a JPEG-LS image; save it as PNG or TIFF")
        if marker in _START_OF_FRAME and length >= 8 and at + 10 <= len(data):
            frame = (marker, at)
        if marker == 0xDA:
            if frame is None:
                raise Damage("no frame header before the pixels")
            kind, start = frame
            height, width = (int.from_bytes(data[start + i : start + i + 2], "big") for i in (5, 7))
            return Facts(
                width,
                height,
                data[start + 4],
                data[start + 9],
                kind,
                at,
                data[at + 4 : at + 5] != data[start + 9 : start + 10],
            )
        at += 2 + length
    raise Damage("its header ends early")


def is_ls(data: bytes) -> bool:
    """Whether the bytes that begin as a JPEG are those of a JPEG-LS."""
    try:
        facts(data)
    except Unsupported:
        return True
    except Damage:
        pass
    return False


def working_bytes(said: Facts) -> float:
    """Bytes a pixel that the decoder takes besides its result: all coefficients, where scans must be put together."""
    return 2.0 * said.components if said.frame in _PROGRESSIVE or said.several else 0.0


def check(data: bytes, said: Facts) -> None:
    """Refuse what can be told without decoding.

    Raises Damage when the bytes cannot hold so many pixels or scans are missing, Unsupported for too many scans and
    kinds of JPEG that libjpeg's common interface does not read.
    """
    if said.frame not in _ARITHMETIC and said.width * said.height > PIXELS_PER_BYTE * len(data):
        raise Damage(f"{said.width}x{said.height} pixels cannot lie in {len(data)} bytes")
    if said.precision != 8 or said.frame in _LOSSLESS:
        kind = "lossless JPEG" if said.frame in _LOSSLESS else "JPEG"
        raise Unsupported(f"a {kind} of {said.precision} bits is not read; save it as PNG or TIFF")
    if said.frame in _PROGRESSIVE or said.several:
        _check_scans(data, said)


def _check_scans(data: bytes, said: Facts) -> None:
    """Count the scans, and see that they bring every coefficient of every component to its last bit."""
    bits: dict[int, list[int]] = {}
    count, at = 0, said.first_scan
    while at >= 0:
        if data[at + 1] == 0xDA:
            count += 1
            if count > MAX_SCANS:
                raise Unsupported(f"its pixels lie in more than {MAX_SCANS} scans; save it anew")
            number = data[at + 4] if at + 4 < len(data) else 0
            head = data[at + 5 : at + 8 + 2 * number]
            if len(head) < 2 * number + 3:
                break
            first, last, low = head[-3], min(head[-2], 63), head[-1] & 15
            for component in head[0 : 2 * number : 2]:
                left = bits.setdefault(component, [99] * 64)
                if said.frame not in _PROGRESSIVE:
                    first, last, low = 0, 63, 0
                for coefficient in range(first, last + 1):
                    left[coefficient] = low
        elif data[at + 1] == 0xD9:
            break
        skip = 2 if data[at + 1] in (0x01, 0xD8) else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found = _MARKER.search(data, at + skip)
        at = found.start() if found else -1
    missing = len(bits) < said.components or any(low != 0 for left in bits.values() for low in left)
    if missing and said.frame not in _ARITHMETIC:
        raise Damage("scans are missing")


def holds_more(data: bytes, said: Facts) -> bool:
    """Whether the file says itself that more follows the picture, as phones and some cameras have it."""
    return data.endswith(b"SEFT") or any(data.find(mark, 0, said.first_scan) >= 0 for mark in _MORE)


def decode(
    data: bytes, said: Facts, strict: bool = True, order: str = "BGR", padded: Callable[[], None] | None = None
) -> Bytes | None:
    """(H, W) or (H, W, 3) uint8, in BGR or RGB order. None for subsampling that only OpenCV reads.

    `padded` is called where padding lies before the end mark.
    Raises Damage for what the decoder reports, with `strict`; without, it fills what is missing.
    """
    colours = "GRAY" if said.components == 1 else order
    odd = False
    for _ in range(3):  # two kinds of harmless warning are put right in the bytes, to hear what comes after them
        try:
            pixels: Bytes = simplejpeg.decode_jpeg(data, colorspace=colours, strict=strict)
        except KeyError:
            return None
        except ValueError as problem:
            reason = str(problem)
            if "JFIF revision" in reason:
                data = _with(data, data.find(b"JFIF\0") + 5, b"\x01\x02")
            elif "Invalid SOS parameters" in reason:
                data = _sequential(data, said.first_scan)
            elif "subsampling" in reason:
                return None
            elif strict and (found := _EXTRANEOUS.search(reason)) and (bare := _unpadded(data, int(found[1]))):
                data, odd = bare, True
            else:
                raise Damage(_plain(reason)) from problem
            continue
        if odd and padded is not None:
            padded()
        return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    raise Damage("its headers contradict themselves")


def _with(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _sequential(data: bytes, at: int) -> bytes:
    """The same file with the spectral selection of all scans that a sequential one has."""
    while at >= 0:
        if data[at + 1] == 0xDA:
            data = _with(data, at + 5 + 2 * data[at + 4], b"\x00\x3f\x00")
        elif data[at + 1] == 0xD9:
            break
        found = _MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        at = found.start() if found else -1
    return data


def _unpadded(data: bytes, count: int) -> bytes:
    """The file without the `count` equal bytes before its end mark; empty where they are not equal: no padding.

    Zeros written over the end of the pixels look alike, and are told by decoding without them: then too little is left.
    """
    for end in _ends(data):
        if count <= end and len(set(data[end - count : end])) == 1:
            kept = data[:end].rstrip(data[end - 1 : end])
            return kept + (b"\0" if kept.endswith(b"\xff") and data[end - 1] == 0 else b"") + data[end:]
    return b""


def _ends(data: bytes) -> list[int]:
    first = data.find(b"\xff\xd9")
    last = data.rfind(b"\xff\xd9")
    return [last] if first == last else [last, first]


def _plain(reason: str) -> str:
    """libjpeg's words without its prefix."""
    return reason.removeprefix("Corrupt JPEG data: ").removeprefix("tjDecompress2(): ")
