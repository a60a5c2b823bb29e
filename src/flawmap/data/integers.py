"""Grey TIFF of signed or 32-bit integers, as label tools write masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from flawmap.data.by_pillow import TURNS
from flawmap.data.decoding import damaged, grey_tiff
from flawmap.data.formats import Damage, Unsupported, rare, tiff, tiff_pixels
from flawmap.data.limits import fits, memory
from flawmap.errors import ImageError

SIGNED, UNSIGNED = 2, 1  # kinds of samples in TIFF


def whole_numbers(data: bytes, name: str) -> tuple[np.ndarray[Any, Any], bool] | None:
    """The numbers (H, W) of such a file, upright, and whether it counts from white; None for other TIFFs.

    Below 0 are 255 as a signed byte keeps it, and what counts for nothing: read as 255, or as 0 where they are most.
    Raises ImageError for what is damaged or not read.
    """
    try:
        page = tiff.read_page(data)
        if page.samples != 1 or not (page.kind == SIGNED or (page.kind == UNSIGNED and page.bits > 16)):
            return None
        fits(name, page.width, page.height, 2 * 8 + page.bits // 8, data)
        with memory(name):
            tiff.check(data, page)
            stored = tiff_pixels.decode(data, page, grey_tiff) if tiff_pixels.readable(page) else rare.tiff(data, page)
            values = stored.reshape(stored.shape[:2]).astype(np.int64)
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise damaged(name, str(problem)) from problem
    if values.size and values.min() < 0:
        behind = 2 * np.count_nonzero(values < 0) > values.size
        values = np.where(values < 0, 0, values + 1) if behind else np.where(values < 0, 255, values)
    if page.orientation in TURNS:
        quarters, mirrored = TURNS[page.orientation]
        values = np.rot90(values, quarters)
        values = values[:, ::-1] if mirrored else values
    kind = np.uint16 if values.max(initial=0) <= 65535 else np.int64
    return np.ascontiguousarray(values, kind), page.photometric == 0
