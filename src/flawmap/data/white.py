"""Full white of photos with 16 bits: cameras store 10, 12 or 14 bits in them, and few files say which.

What a file says wins where it can be relied on: packed samples of a TIFF, MaxSampleValue, the maxval of PGM and PPM,
the precision of JPEG 2000, BitsStored of DICOM. 16 bits there say nothing, as most writers put them by default; nor
does PNG's sBIT, which writers disagree on. Otherwise the level is `image.white`, which a training settles and a bundle
keeps.

Photos are brought to the full scale of 16 bits where they are read, so nothing behind that need know of levels. 8 bits
are never changed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from flawmap.config import ImageSettings
from flawmap.data.formats import Damage, Unsupported, dicom, jpeg2000, pnm, tiff
from flawmap.data.opencv import cv2
from flawmap.errors import ImageError

FULL = 65535
LEVELS = (1023, 4095, 16383)  # 10, 12 and 14 bits
FAR = 2.0  # times darker than the darkest training photo: the square root of what lies between two levels
BRIGHT = 0.999  # of the pixels are at most as bright as what counts as a photo's bright pixels: a hot pixel is none
HEAD = 4096  # bytes of a file in which most formats say how deep its pixels are
COARSE = 16  # pixels between those that are looked at first
SAMPLED = 250_000  # pixels that this is told from, about
UNKNOWN_REACH = 1 / 8  # of full scale, where nothing is known of the training photos: 12 bits in 16 reach 1/16

Array = np.ndarray[Any, Any]

_BITS, _PHOTOMETRIC, _LARGEST = 258, 262, 281  # TIFF: BitsPerSample, PhotometricInterpretation, MaxSampleValue
_LAB = (8, 9)  # decoded from CIELAB, which knows its white
_SHORT, _LONG = 3, 4


class White(NamedTuple):
    """How photos with 16 bits are read.

    level: the pixel value that is full white. reach: the share of full white, in [0, 1], that bright pixels of every
    training photo reached; a photo that stays far below is refused; 0: none is. trained: whether this is a bundle's
    """

    level: int = FULL
    reach: float = 0.0
    trained: bool = False

    @classmethod
    def of(cls, settings: ImageSettings) -> White:
        """As `image.white` says; full scale where that is still `auto`."""
        return cls(settings.white if isinstance(settings.white, int) else FULL)


FULL_SCALE = White()


def at_white(pixels: Array, white: White, name: str, data: bytes = b"") -> Array:
    """Decoded pixels (H, W) or (H, W, C) at the full scale of their type; all but 16 bits are returned as they are.

    `data`: the file they come from, which may state its own level, and count from white. A fourth channel is alpha.
    Raises ImageError, which begins with `name`, for pixels above full white, and for a photo so dark, or so bright
    where they count from white, that its level must be another one.
    """
    if pixels.dtype != np.uint16 or pixels.size == 0:
        return pixels
    colours, turned = _colours(pixels), counts_from_white(data)
    if (
        not turned
        and white.level == FULL
        and stated_white(data, 0) is None
        and int(colours[::COARSE, ::COARSE].max()) > LEVELS[-1]
    ):
        return pixels  # bright enough, told without a look at every pixel
    largest = _largest(colours, turned)
    stated = stated_white(data, largest)
    if stated is None:
        _check(colours, largest, white, name, turned)
    level = stated or white.level
    if level == FULL:
        return pixels
    colours = _stretched(colours, level, turned)
    if pixels.ndim == 3 and pixels.strides[2] == 0:  # grey that is seen several times, not held
        return np.broadcast_to(colours[:, :, None], pixels.shape)
    if pixels.ndim == 2 or pixels.shape[2] < 4:
        return colours
    alpha = pixels[:, :, 3]
    return np.dstack([colours, _stretched(alpha, level, False) if int(alpha.max()) <= level else alpha])


def _stretched(values: Array, level: int, turned: bool) -> Array:
    """uint16 of any shape with `level` at full scale, rounded; `turned`: they were taken from 65535 instead of `level`.

    OpenCV is several times faster at it than a table in NumPy.
    """
    rows = np.ascontiguousarray(values).reshape(len(values), -1)  # of three channels it would multiply the first alone
    if turned:
        rows = cv2.subtract(rows, float(FULL - level))  # type: ignore[call-overload]  # its types leave out numbers
    return np.asarray(cv2.multiply(rows, FULL / level)).reshape(values.shape)  # type: ignore[call-overload]


def counts_from_white(data: bytes) -> bool:
    """Whether 0 is white in a file of 16 bits whose level must be known to turn them: decoded, they are 65535 less.

    So are a TIFF's with MinIsWhite, and those of DICOM that are turned where BitsStored says nothing.
    """
    if dicom.is_dicom(data):
        with suppress(Damage, Unsupported):
            said = dicom.facts(data)
            return said.turned and not said.states_white
        return False
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return False
    tags = _tiff_tags(data)
    return tags.get(_PHOTOMETRIC) == 0 and tags.get(_BITS) == 16


def largest_in(pixels: Array, data: bytes) -> int | None:
    """The largest value that a file of 16 bits holds, by its decoded pixels, alpha left out; None of other types."""
    return _largest(_colours(pixels), counts_from_white(data)) if pixels.dtype == np.uint16 and pixels.size else None


def bright_in(pixels: Array, data: bytes) -> float:
    """`bright_value` of decoded pixels of 16 bits; of those that count from white, if they have the likely level."""
    bright = bright_value(pixels)
    if counts_from_white(data):
        level = white_to_show(largest_in(pixels, data) or 0).level
        return max(bright - (FULL - level), 0.0)
    return bright


def _colours(pixels: Array) -> Array:
    """Without alpha; grey that is seen three times, once."""
    if pixels.ndim == 3 and pixels.strides[2] == 0:
        return pixels[:, :, 0]
    return pixels if pixels.ndim == 2 or pixels.shape[2] < 4 else pixels[:, :, :3]


def _largest(colours: Array, turned: bool) -> int:
    return FULL - int(colours.min()) if turned else int(colours.max())


def stated_white(data: bytes, largest: int) -> int | None:
    """What a file says is its full white, where that is to be relied on; None where it says nothing.

    `largest`: its largest pixel as decoded. Packed samples of a TIFF are taken to be decoded at full scale.
    """
    if dicom.is_dicom(data):  # decoded at full scale by its BitsStored
        with suppress(Damage, Unsupported):
            return FULL if dicom.states_white(data) else None
        return None
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        tags = _tiff_tags(data)
        if 8 < tags.get(_BITS, 0) < 16 or tags.get(_PHOTOMETRIC) in _LAB:
            return FULL
        level = tags.get(_LARGEST, FULL)
        return level if 255 <= level < FULL and (level + 1).bit_count() == 1 and largest <= level else None
    level = FULL
    if pnm.is_pnm(data):
        with suppress(Damage):
            level = pnm.facts(data).maxval
    elif jpeg2000.is_jpeg2000(data):
        level = (1 << (jpeg2000.precision(data) or 16)) - 1
    return level if largest <= level < FULL else None


def may_be_deep(data: bytes) -> bool:
    """Whether a file may hold more than 8 bits, by its first HEAD bytes, of a TIFF by all; True if in doubt."""
    if data[128:132] == b"DICM":
        return True
    if pnm.is_pnm(data):
        with suppress(Damage):
            return pnm.facts(data).maxval > 255
    if jpeg2000.is_jpeg2000(data):
        return (jpeg2000.precision(data) or 16) > 8
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    if data[:2] in (b"II", b"MM"):
        return not 1 <= _tiff_tags(data).get(_BITS, 16) <= 8
    return not data.startswith((b"\xff\xd8", b"BM", b"RIFF", b"GIF8"))


def likely_white(largest: int) -> int:
    """The level of photos of which the brightest pixel is `largest`: the smallest of LEVELS that it does not exceed,
    if it comes within a factor of 2 of that, else full scale."""
    level = next((level for level in LEVELS if largest <= level), FULL)
    return level if 2 * largest >= level else FULL


def white_to_show(largest: int, level: int | None = None) -> White:
    """How to show one photo to a person: at the level it was inspected with, or as no level that it fits is known."""
    if level is not None and largest <= level:
        return White(level)
    return White(next((each for each in LEVELS if largest <= each), FULL))


def reach_of(pixels: Array) -> float:
    """The share of full scale, in [0, 1], that bright pixels reach in (H, W) or (H, W, 3) uint8, uint16 or float."""
    full = 1 if pixels.dtype.kind in "fb" else int(np.iinfo(pixels.dtype).max)
    return bright_value(pixels) / full


def level_in(provenance: Mapping[str, Any], settings: ImageSettings) -> int:
    """The level of new photos by a bundle's provenance, where one was set after the training, or its settings."""
    noted = provenance.get("white")
    given = noted.get("set") if isinstance(noted, dict) else None
    known = isinstance(given, int) and not isinstance(given, bool) and 255 <= given <= FULL
    return int(given) if known and given is not None else White.of(settings).level


def reach_in(provenance: Mapping[str, Any]) -> float | None:
    """The share of full white that every training photo reached, as noted in a bundle's provenance; None: not noted."""
    noted = provenance.get("white")
    reach = noted.get("reach") if isinstance(noted, dict) else None
    number = isinstance(reach, int | float) and not isinstance(reach, bool) and 0 <= reach <= 1
    return float(reach) if number and reach is not None else None


def _check(colours: Array, largest: int, white: White, name: str, turned: bool = False) -> None:
    """Raise ImageError for a photo that is stored at another level than `white`."""
    if largest > white.level:
        fitting = next((level for level in LEVELS if largest <= level), FULL)
        told = (
            f"that the bundle reads photos with; if the camera now stores them so: flawmap white BUNDLE {fitting}"
            if white.trained
            else f'of image.white; set it to "auto", or to {fitting}'
        )
        raise ImageError(f"{name}: 16-bit pixels reach {largest}, above the full white {white.level} {told}")
    if not white.reach or largest > LEVELS[-1]:
        return
    fitting = next(level for level in LEVELS if largest <= level)
    bits = round(math.log2(fitting + 1))
    hint = f"if they hold {bits} bits, say so once: flawmap white BUNDLE {fitting}; else check light and exposure"
    if turned:
        if largest < white.level * UNKNOWN_REACH:
            raise ImageError(
                f"{name}: 16-bit pixels that count from white reach {largest}, so that at the full white {white.level} "
                f"of the bundle all of the photo is nearly white: {hint}"
            )
        return
    share = bright_value(colours) / white.level
    if share < white.reach / FAR and fitting < white.level:
        raise ImageError(
            f"{name}: 16-bit pixels reach {largest}, {_percent(share)} of the full white {white.level} that the bundle "
            f"reads photos with, and training photos at least {_percent(white.reach)}: {hint}"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def bright_value(pixels: Array) -> float:
    """The value that bright pixels of (H, W) or (H, W, C) have: the quantile BRIGHT of the brightest colour."""
    pixels = pixels[:, :, :3] if pixels.ndim == 3 else pixels
    if pixels.ndim == 3 and pixels.strides[2] == 0:
        pixels = pixels[:, :, 0]
    step = max(1, round(math.sqrt(pixels.shape[0] * pixels.shape[1] / SAMPLED)))
    sample = pixels[::step, ::step]
    values = (sample.max(axis=2) if sample.ndim == 3 else sample).ravel()
    place = int(BRIGHT * (len(values) - 1))
    return float(np.partition(values, place)[place])


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First values of the whole-numbered tags of the page of a TIFF that is the picture; nothing of what is cut short
    or odd."""
    order, large = ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")
    try:
        (start,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
    except struct.error:
        return {}
    tags = _tags_at(data, start, order, large)
    if not tiff.is_picture(tags):
        with suppress(Damage, Unsupported):
            return _tags_at(data, tiff.read_page(data).start, order, large)
    return tags


def _tags_at(data: bytes, start: int, order: str, large: bool) -> dict[int, int]:
    """First values of a directory's whole-numbered tags."""
    count, size, inline = ("Q", 20, 8) if large else ("H", 12, 4)
    found: dict[int, int] = {}
    try:
        (entries,) = struct.unpack_from(order + count, data, start)
        start += struct.calcsize(count)
        for number in range(min(entries, 1000)):
            at = start + size * number
            tag, kind, many = struct.unpack_from(order + ("HHQ" if large else "HHI"), data, at)
            value = at + size - inline
            if kind == _SHORT and many > inline // 2:
                (value,) = struct.unpack_from(order + ("Q" if large else "I"), data, value)
            if kind in (_SHORT, _LONG) and many and (kind == _SHORT or many <= inline // 4):
                (found[tag],) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, value)
    except struct.error:
        pass
    return found
