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
LEFT_OUT = "channels that are neither colour nor alpha were left out"


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
    if page.photometric in (CIELAB, ICCLAB) and (page.kind != 1 or page.bits not in (8, 16)):
        raise Unsupported(f"colours in CIELAB of {page.bits} bits; save it as RGB")
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
        remark = LEFT_OUT
    if page.photometric == PALETTE:
        return _looked_up(samples[:, :, 0], page), remark
    if page.kind == 1 and page.bits not in (8, 16):
        samples = _full_scale(samples, page.bits)
    if page.photometric == CMYK:
        return _printed(samples), remark
    if page.photometric in (CIELAB, ICCLAB):
        samples = _from_lab(samples, page.photometric == ICCLAB)
    if page.photometric == BLACK_AND_WHITE:
        white = 1.0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
        np.subtract(samples.dtype.type(white), samples[:, :, :1], out=samples[:, :, :1])
    laid = alpha > 0 and page.extra[alpha - colours] == 1  # associated: laid on black already
    if colours == 1:
        grey = samples[:, :, 0]
        return (grey if not alpha or laid else with_alpha(grey, samples[:, :, alpha])), remark
    if not alpha or laid:
        return samples[:, :, :3], remark
    return samples[:, :, [0, 1, 2, alpha]], remark


# XYZ under D50 to linear sRGB, adapted to D65 by Bradford's method (B. Lindbloom, RGB/XYZ matrices).
_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
_LAB_ROWS = 64  # at a time
_LIGHTS = 1 << 16  # steps of a table that is within 1/20 of a step of 8 bits


def _from_lab(samples: Array, icc: bool) -> Array:
    """CIELAB under D50 (CIE 15; TIFF 6.0, section 23; `icc`: as in ICC profiles) -> sRGB in the samples' depth.

    LittleCMS goes by tables of its own, which are up to 0.12 away from the formula at 8 bits.
    """
    full = int(np.iinfo(samples.dtype).max)
    deep = samples.dtype == np.uint16
    brightest, step = (65280 if icc and deep else full), (256 if deep else 1)
    chroma = np.arange(full + 1) - (full + 1) // 2 if icc else np.arange(full + 1)
    chroma = chroma if icc else np.where(chroma > full // 2, chroma - full - 1, chroma)
    roots = (np.arange(full + 1) * (100 / brightest) + 16) / 116, chroma / (500 * step), chroma / (200 * step)
    light, red, blue = (np.asarray(table, np.float32) for table in roots)
    screen = np.rint(_gamma(np.arange(_LIGHTS + 1) / _LIGHTS) * full).astype(samples.dtype)
    out = samples.copy()
    for top in range(0, len(samples), _LAB_ROWS):
        part = samples[top : top + _LAB_ROWS]
        y = light[part[:, :, 0]]
        root = np.stack([y + red[part[:, :, 1]], y, y - blue[part[:, :, 2]]], axis=2)
        xyz = np.where(root > 6 / 29, root * root * root, (root - np.float32(4 / 29)) * np.float32(108 / 841))
        linear = np.clip(xyz.reshape(-1, 3) @ (_TO_SRGB * _D50).T.astype(np.float32), 0, 1).reshape(xyz.shape)
        shown = np.rint(_gamma(linear) * full) if deep else screen[(linear * _LIGHTS + 0.5).astype(np.int32)]
        out[top : top + _LAB_ROWS, :, :3] = shown
    return out


def _gamma(linear: Array) -> Array:
    """IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def with_alpha(grey: Array, alpha: Array) -> Array:
    """Grey and alpha (H, W) of one type -> (H, W, 4), which is laid over black when the level of 16 bits is known."""
    return np.dstack([grey, grey, grey, alpha])


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
