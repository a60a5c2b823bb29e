"""Whether an image file is drawn, as masks are, or a photo: by its colours and flat areas, not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flawmap.data.images import MaskPixels, read_mask_pixels
from flawmap.data.masks import COLOURS
from flawmap.errors import ImageError

Numbers = np.ndarray[Any, Any]
Drawing = Literal["even", "drawn", "soft", "photo"]

ROWS = 512  # that are looked at, evenly; of each all columns
SAME = 0.75  # share of pixels that equal their neighbour in drawings
EXTREME = 8  # levels of 255 from black or white, that JPEG leaves about edges
NEAR = 6  # levels of 255 between neighbours in a flat area, as JPEG leaves them
CALM = 0.6  # share of pixels in flat areas, from which on a picture may be a mask with soft edges
AREAS = 4  # tones that take nearly all of a mask's flat areas
NEARLY_ALL = 0.95
CALMER = 0.15  # by which a soft mask's flat areas exceed those of a photo on an even background


class Look(NamedTuple):
    """How a picture looks. kind: `even`, one colour, which tells nothing; `drawn`, few colours in flat areas, or black
    and white as JPEG leaves them; `soft`, flat areas of few tones with slopes between, as blurred masks have, and
    photos before an even background too; else `photo`. calm: share of its pixels in flat areas. size: rows, columns.
    two: whether it has exactly two colours, as no photo has."""

    kind: Drawing
    calm: float
    size: tuple[int, int]
    two: bool = False

    def is_mask_beside(self, photo: Look) -> bool | None:
        """Whether this is a mask of `photo`, by whose name it is named; None when in doubt."""
        if photo.kind in ("even", "drawn") or self.kind == "photo":
            return False
        if self.kind == "soft" and photo.kind == "soft":
            return None if self.calm >= photo.calm + CALMER else False
        return True


def look(path: Path) -> Look:
    """How an image file looks; one that cannot be read is taken for a photo, as reading it later tells what it is."""
    try:
        pixels = read_mask_pixels(path)
    except ImageError:
        return Look("photo", 0.0, (0, 0))
    return look_at(pixels)


def look_at(pixels: MaskPixels) -> Look:
    """The same for what `read_mask_pixels` gives."""
    size = (pixels.colours.shape[0], pixels.colours.shape[1])
    colours = _visible(pixels)[:: max(1, size[0] // ROWS)]
    if not np.isfinite(colours).all() or colours.size == 0:
        return Look("photo", 0.0, size)
    low, high = float(colours.min()), float(colours.max())
    first = colours[:1, :1]
    if bool((colours == first).all()):
        return Look("even", 1.0, size)
    scaled = (colours - low) * (255 / (high - low)) if high > low else colours
    steps = np.abs(np.diff(scaled, axis=1)).max(axis=2)
    flat = np.zeros(scaled.shape[:2], np.bool_)
    flat[:, :-1] = steps <= NEAR
    flat[:, 1:-1] &= steps[:, :-1] <= NEAR
    flat[:, -1] = steps[:, -1] <= NEAR if steps.shape[1] else True
    calm = float(flat.mean())
    same = float((steps == 0).mean()) if steps.size else 0.0
    if (same >= SAME and _few(colours)) or _black_and_white(scaled):
        return Look("drawn", calm, size, _count(colours) == 2)
    tones = (scaled[flat] / 8).astype(np.int64) @ (32 ** np.arange(scaled.shape[2]))
    counts = np.sort(np.unique(tones, return_counts=True)[1])[::-1]
    soft = calm >= CALM and counts[:AREAS].sum() >= NEARLY_ALL * counts.sum()
    return Look("soft" if soft else "photo", calm, size)


def _visible(pixels: MaskPixels) -> Numbers:
    """Colours (H, W, C) float64 over black; the alpha channel where the colours are even."""
    colours = pixels.colours.astype(np.float64)
    colours = colours[:, :, None] if colours.ndim == 2 else colours
    if pixels.alpha is None or pixels.alpha.min() == pixels.alpha.max():
        return colours
    seen = np.where(pixels.alpha[:, :, None] > 0, colours, 0.0)
    if bool((colours == colours[:1, :1]).all()) or bool((seen == seen[:1, :1]).all()):
        return pixels.alpha.astype(np.float64)[:, :, None]
    return np.asarray(seen)


def _few(colours: Numbers) -> bool:
    """Whether there are at most COLOURS colours."""
    return _count(colours[::16]) <= COLOURS and _count(colours) <= COLOURS


def _count(colours: Numbers) -> int:
    """How many colours (H, W, C) there are; exact where they are few."""
    packed = (colours * (1.0, 4099.0, 16785407.0)[: colours.shape[2]]).sum(axis=2)  # sums of few colours are distinct
    return len(np.unique(packed))


def _black_and_white(scaled: Numbers) -> bool:
    """Whether nearly all is close to black or white, and not only to black."""
    values = scaled.max(axis=2)
    bright, dark = (float(part.mean()) for part in (values >= 255 - EXTREME, values <= EXTREME))
    return bright + dark >= NEARLY_ALL and bright > (1 - dark) / 4 and dark > 0


def looks_like_mask(path: Path) -> bool | None:
    """Whether a file is drawn as masks are, in few colours and flat areas; None: one colour, it tells nothing."""
    seen = look(path).kind
    return None if seen == "even" else seen == "drawn"
