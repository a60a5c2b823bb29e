"""What the samples of a TIFF mean: grey or colour, alpha or another channel, white at 0 or at full scale (TIFF 6.0)."""

from __future__ import annotations

from typing import Any

import numpy as np

from flawmap.data.formats import Damage, Unsupported
from flawmap.data.formats.tiff import JPEG, Page

Array = np.ndarray[Any, np.dtype[Any]]

BLACK_AND_WHITE, GREY, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB, MOSAIC, LINEAR_RAW = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    32803,
    34892,
)


def refuse(page: Page) -> None:
    """Raise Unsupported for samples that are no picture in grey or colour."""
    if page.photometric in (MOSAIC, LINEAR_RAW):
        raise Unsupported("a raw photo, the mosaic of a colour sensor; develop it to PNG or TIFF")
    if page.photometric == YCBCR and page.compression != JPEG:
        raise Unsupported("colours in YCbCr with this compression; save it as RGB")
    if page.photometric not in (BLACK_AND_WHITE, GREY, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB):
        raise Unsupported(f"its colours are of an unusual kind (photometric interpretation {page.photometric})")
    if page.bits == 32 and page.kind in (1, 2):
        kind = "int32" if page.kind == 2 else "uint32"
        raise Unsupported(f"pixels of type {kind} are not supported; save it with 8 or 16 bits")
    if page.kind == 2:
        raise Unsupported(f"its values are signed integers (int{page.bits}); shift them to unsigned 8 or 16 bits")
    if page.kind == 1 and page.bits > 16:
        raise Unsupported(f"its values are integers of {page.bits} bits; scale them to 16 bits")
    if page.kind not in (1, 3):
        raise Unsupported("its values are complex numbers; save their magnitude")
    beyond = page.samples - page.colour_count
    if page.photometric in (BLACK_AND_WHITE, GREY) and page.samples > 2:
        raise Unsupported(f"it has {page.samples} channels (multispectral); save those to inspect as grey or colour")
    if beyond < 0:
        raise Damage(f"it has {page.samples} channels of {page.colour_count}")


def to_picture(samples: Array, page: Page) -> tuple[Array, str]:
    """(H, W, samples) -> (H, W) or (H, W, 3 or 4) in RGB(A) order: uint8, uint16 or float; alpha where it is to be laid
    on black. With it a remark on what was left out, "" for nothing."""
    refuse(page)
    colours, remark = page.colour_count, ""
    beyond = list(page.extra) + [0] * (samples.shape[2] - colours - len(page.extra))
    alpha = next((colours + place for place, kind in enumerate(beyond) if kind in (1, 2)), 0)
    if alpha >= samples.shape[2]:
        alpha = 0
    if samples.shape[2] - colours > bool(alpha):
        remark = "channels that are neither colour nor alpha were left out"
    if page.photometric == PALETTE:
        return _looked_up(samples[:, :, 0], page), remark
    if page.kind == 1 and page.bits not in (8, 16):
        samples = _full_scale(samples, page.bits)
    if page.photometric == CMYK:
        return _printed(samples), remark
    if page.photometric == BLACK_AND_WHITE:
        white = 1.0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
        np.subtract(samples.dtype.type(white), samples[:, :, :1], out=samples[:, :, :1])
    laid = alpha > 0 and page.extra[alpha - colours] == 1  # associated: laid on black already
    if colours == 1:
        grey = samples[:, :, 0]
        return (grey if not alpha or laid else _laid(grey, samples[:, :, alpha])), remark
    if not alpha or laid:
        return samples[:, :, :3], remark
    return samples[:, :, [0, 1, 2, alpha]], remark


def _laid(grey: Array, alpha: Array) -> Array:
    full = np.float32(1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max)
    return np.asarray((grey / full) * (alpha / full), np.float32)


def by_table(indices: Array, table: Array) -> Array:
    """table[indices], some rows at a time: an index takes eight bytes meanwhile. Raises Damage beyond the table."""
    if indices.dtype == np.bool_:  # as tifffile gives single bits; NumPy would take them for a choice
        indices = indices.view(np.uint8)
    if indices.size and int(indices.max()) >= len(table):
        raise Damage(f"it holds values up to {int(indices.max())}, and its bits end at {len(table) - 1}")
    out = np.empty(indices.shape + table.shape[1:], table.dtype)
    for top in range(0, len(indices), 64):
        out[top : top + 64] = table[indices[top : top + 64]]
    return out


def _looked_up(indices: Array, page: Page) -> Array:
    """Palette: 16-bit colours, of which some writers use the lower 8 bits alone."""
    count = 1 << page.bits
    if page.bits > 8 or len(page.colours) < 3 * count:
        raise Damage("its palette is missing")
    table = page.colours[: 3 * count].reshape(3, count).T
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    return by_table(indices, table)


def _full_scale(samples: Array, bits: int) -> Array:
    """Packed integers of so many bits -> uint8 or uint16 with white at full scale, rounded."""
    white, target = (1 << bits) - 1, np.uint8 if bits in (1, 2, 4) else np.uint16
    table = np.rint(np.arange(white + 1) * (np.iinfo(target).max / white)).astype(target)
    return by_table(samples, table)


def _printed(samples: Array) -> Array:
    """CMYK -> RGB, as libtiff does it: ink takes light away, black from all three."""
    if samples.dtype != np.uint8:
        raise Unsupported("print colours (CMYK) of more than 8 bits; save it as RGB")
    left = 255 - samples[:, :, 3:4].astype(np.uint16)
    return np.asarray((left * (255 - samples[:, :, :3]) + 127) // 255, np.uint8)
