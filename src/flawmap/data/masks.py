"""Defect masks as tools write them: which pixels does a file mark, and what about it should be said.

Two levels, class numbers, palettes, alpha channels, and pictures with grey edges as JPEG and scaling leave them. Black,
or 0 of a palette, is the background; where a file leaves that open, the commonest colour is. What was not a plain
mask of two levels is counted by `MaskReader`, to be said aloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flawmap.data.images import SUFFIXES, Mask, MaskPixels, read_mask_pixels
from flawmap.errors import ImageError

Levels = np.ndarray[Any, Any]  # (H, W), 0 for the background
Kind = Literal["even", "two", "classes", "labels", "grey"]

CLASSES = 31  # up to which numbers are taken for class numbers; a picture's levels reach further
VOID = 255  # of class numbers: the border about objects in PASCAL VOC
SEVERAL = 64  # levels, more than which no set of classes has
COLOURS = 32  # colours, more than which a drawing has not
DISTINCT = 0.3  # of the flat pixels of a grey mask that its commonest level must have, to be that of areas
BRIGHT = 0.75  # of full scale, below which the largest area of a grey mask is not white
COLOURED = 64  # levels of 255 between channels, that make a colour, and between a drawing and what is behind it
FEW_BETWEEN = 8  # pixels of a level in the mean, fewer than which are no class but specks


class Facts(NamedTuple):
    """What a mask file was like.

    kind: one level only, two, class numbers, numbers of many objects, or many levels of grey; marked: share of its
    pixels; alpha: whether the alpha channel is the mask; open: whether the file leaves open which colour is the
    background; dim: whether its areas are darker than white, so that half of their level was taken; changed: whether it
    is a JPEG of class numbers, which JPEG does not keep
    """

    kind: Kind
    marked: float
    alpha: bool = False
    open: bool = False
    dim: bool = False
    changed: bool = False


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Mask:
    """Read a defect mask: (H, W) bool, True where the part is defective; of a folder, where any mask in it is.

    Of two levels or class numbers every one but the background counts; of many levels of grey those above half of full
    scale, as JPEG and scaling leave rings and soft edges. Raises ImageError for a file that is no image, and unless of
    `shape`, where one is given, as it must be for a folder.
    """
    return read_with_facts(path, shape)[0]


def read_with_facts(path: str | Path, shape: tuple[int, int] | None = None) -> tuple[Mask, list[Facts]]:
    """`read_mask`, and what each file of it was like."""
    if shape is not None and Path(path).is_dir():
        parts = [part for part in sorted(Path(path).iterdir()) if part.suffix.lower() in SUFFIXES]
        parts = [part for part in parts if not part.name.startswith(".")]
        if not parts:
            raise ImageError(f"{path}: the folder holds no mask; add one or remove it")
        return _united(parts, shape)
    mask, facts = marked(read_mask_pixels(path), str(path))
    if shape is not None and mask.shape != tuple(shape):
        raise ImageError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels but its image {shape[1]}x{shape[0]}; "
            "save it at the image's size"
        )
    return mask, [facts]


def _united(paths: Sequence[Path], shape: tuple[int, int] | None) -> tuple[Mask, list[Facts]]:
    found = [read_with_facts(path, shape) for path in paths]
    mask = np.any([mask for mask, _ in found], axis=0)
    return np.asarray(mask, np.bool_), [fact for _, facts in found for fact in facts]


def marked(pixels: MaskPixels, name: str = "mask") -> tuple[Mask, Facts]:
    """The pixels (H, W) bool that a mask file marks. Raises ImageError when its numbers are not finite."""
    levels, alpha, unclear = _levels(pixels, name)
    kind, dim = kind_of_levels(levels, pixels.lossy), False
    if kind == "grey":
        full = pixels.white if levels.max() <= pixels.white and pixels.indices is None else _full_scale(levels)
        most = _level_of_areas(levels, full)
        dim = most <= full * BRIGHT
        mask = levels > (most if dim else full) / 2
    else:
        mask = levels != 0
    changed = pixels.lossy and levels.size > 0 and 0 < levels.max() <= CLASSES
    share = float(mask.mean()) if mask.size else 0.0
    return np.asarray(mask, np.bool_), Facts(kind, share, alpha, unclear, dim, bool(changed))


def _level_of_areas(levels: Levels, full: float) -> float:
    """The commonest level of flat areas above the background, which a drawing at grey 128 has between JPEG's rings and
    soft edges; without such areas the highest, or full scale where this is above half of it."""
    from scipy import ndimage

    most = float(levels.max())
    scaled = levels.astype(np.float32) * (255 / full)
    flat = ndimage.maximum_filter(scaled, 3) - ndimage.minimum_filter(scaled, 3) <= 255 / 16
    above = scaled[flat & (scaled > scaled.max() / 4)]
    if 8 * len(above) < int((scaled > scaled.max() / 4).sum()) or not len(above):
        return most if most <= full / 2 else full
    counts = np.bincount((above / 8).astype(np.int64), minlength=34)
    nearby = counts[:-2] + counts[1:-1] + counts[2:]  # three bins of 8 levels
    first = int(nearby.argmax())
    if nearby[first] < DISTINCT * len(above):  # a slope, as a wide soft brush leaves
        return most if most <= full / 2 else full
    within = above[(above >= 8 * first) & (above < 8 * (first + 3))]
    return float(np.median(within)) * full / 255


def at_cells(mask: Mask, height: int, width: int) -> Mask:
    """A mask (H, W) at fewer pixels: (height, width) bool, where any pixel that a cell covers, if in part, is marked.

    Cells are those of adaptive pooling: from floor(i H / height) to before ceil((i + 1) H / height).
    """
    marked = mask
    for axis, count in enumerate((height, width)):
        steps, size = np.arange(count), mask.shape[axis]
        sums = np.cumsum(marked, axis=axis, dtype=np.int32)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        ends, starts = -(-(steps + 1) * size // count), steps * size // count
        marked = sums.take(ends, axis) > sums.take(starts, axis)
    return marked


def kind_of_levels(levels: Levels, lossy: bool = False) -> Kind:
    """Whether levels (H, W) are even, two, class numbers or grey; `lossy`: as JPEG leaves them."""
    present = np.unique(levels)
    above = present[present > 0]
    if len(present) < 2:
        return "even"
    if len(above) == 1 and len(present) == 2:
        return "two"
    whole = levels.dtype.kind in "ui" or bool((np.floor(above) == above).all())
    if whole and above[above != VOID].max(initial=0) <= CLASSES:
        return "classes"
    if not lossy and whole and len(above) > CLASSES and _is_of_objects(levels, above):
        return "labels"
    if lossy or len(present) > SEVERAL:
        return "grey"
    return "grey" if _is_soft(levels, present) else "classes"


def _is_of_objects(levels: Levels, above: Levels) -> bool:
    """Whether many whole numbers are those of objects: as high at the background as elsewhere, and each in an area."""
    inside = levels > 0
    if int(np.unique(levels[inside], return_counts=True)[1].max()) * 2 >= int(inside.sum()):
        return False  # mostly one level: soft edges about it
    alike, at_edge = np.zeros_like(inside), np.zeros_like(inside)
    for axis in (0, 1):
        for step in (1, -1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = (slice(1, None), slice(None, -1))[::step]
            here, there = levels[tuple(ahead)], levels[tuple(behind)]
            alike[tuple(ahead)] |= here == there
            at_edge[tuple(ahead)] |= (here > 0) & (there == 0)
    if not at_edge.any():
        return False
    low = float(np.median(np.searchsorted(above, levels[at_edge]))) / len(above)  # of ranks, as numbers may be any
    return low >= 0.25 and float(alike[inside].mean()) >= 0.9


def _is_soft(levels: Levels, present: Levels) -> bool:
    """Whether the levels between the lowest and the highest are edges and specks, not areas of their own."""
    from scipy import ndimage

    between = (levels > present[0]) & (levels < present[-1])
    count = int(between.sum())
    low, high = ndimage.minimum_filter(levels, 3), ndimage.maximum_filter(levels, 3)
    flat = int((between & (low == levels) & (high == levels)).sum())
    if 4 * flat >= count:
        return False
    slope = int((between & (low < levels) & (high > levels)).sum())
    return 4 * slope >= count or count < FEW_BETWEEN * (len(present) - 2)


def _full_scale(levels: Levels) -> float:
    most = float(levels.max())
    if levels.dtype.kind == "f" and most <= 1:
        return 1.0
    if most <= 255:
        return 255.0
    return 65535.0 if most <= 65535 else most


def _levels(pixels: MaskPixels, name: str) -> tuple[Levels, bool, bool]:
    """(levels (H, W), 0 for the background; whether the alpha channel is taken; whether the background was open)."""
    colours = pixels.colours
    if colours.dtype == np.bool_:
        colours = colours.astype(np.uint8)
    if colours.dtype.kind == "f" and not np.isfinite(colours).all():
        raise ImageError(f"{name}: the mask holds numbers that are not finite; save it as 0 and 255")
    value = colours if colours.ndim == 2 else colours.max(axis=2)
    if pixels.indices is not None:
        if (drawn := _of_palette(pixels.indices, colours, value)) is not None:
            return drawn[0], False, drawn[1]
    elif pixels.alpha is not None and pixels.alpha.min() != pixels.alpha.max():
        seen = np.where(pixels.alpha > 0, value, value.dtype.type(0))
        if seen.min() != seen.max() and value.min() != value.max():
            return seen, False, False  # what shows over black
        return pixels.alpha, True, False  # one colour all over: the shape is in the alpha channel
    if pixels.white_is_0 and 2 * np.count_nonzero(value) > value.size:  # counted from white, the background is white
        return value.max() - value, False, True
    if value.size and value.min() > 0 and (drawing := _commonest_as_background(colours)) is not None:
        return drawing, False, True
    if colours.ndim == 3 and colours.dtype == np.uint8 and (drawing := _on_bright(colours, value)) is not None:
        return drawing, False, True
    return value, False, False


def _on_bright(colours: Levels, value: Levels) -> Levels | None:
    """Levels of a colour drawn on white by way of JPEG: its distance from the commonest; None where it is no such."""
    if (value > 127).mean() < 0.99:
        return None
    packed = (colours // 16).astype(np.int64) @ (1, 16, 256)
    usual = int(np.bincount(packed.ravel()).argmax())
    behind = np.median(colours[packed == usual].reshape(-1, 3), axis=0).astype(np.int16)
    away = np.abs(colours.astype(np.int16) - behind).max(axis=2)
    drawn = colours[away > COLOURED]
    if not len(drawn) or 2 * len(drawn) > away.size or behind.max() - behind.min() > COLOURED:
        return None
    coloured = (drawn.max(axis=1).astype(np.int16) - drawn.min(axis=1) > COLOURED).mean()
    return away.astype(np.uint8) if coloured > 0.5 else None


def _of_palette(indices: Levels, colours: Levels, value: Levels) -> tuple[Levels, bool] | None:
    """(levels, whether the background was open) of a palette's numbers; None where its colours are a grey picture."""
    numbers, first = np.unique(indices, return_index=True)
    flat, tints = value.reshape(-1)[first], colours.reshape(indices.size, -1)[first]
    grey = bool((tints == tints[:, :1]).all())
    drawn = len(np.unique(tints, axis=0))
    rising = grey and bool((np.diff(flat.astype(np.int64)) > 0).all())
    if len(numbers) > 2 and drawn == len(numbers) and (rising or len(numbers) > COLOURS):
        return None  # a picture in a palette
    black = numbers[~tints.any(axis=1)]
    if drawn > 1 and len(black) == 1 and black[0] != 0:  # black is another number than 0: the commoner of them
        behind = int(black[0]) if np.count_nonzero(indices == black[0]) >= np.count_nonzero(indices == 0) else 0
        return np.where(indices == behind, 0, np.clip(indices, 1, CLASSES)).astype(np.uint8), True
    return np.minimum(indices, CLASSES), False


def _commonest_as_background(colours: Levels) -> Levels | None:
    """Levels of a drawing without black, 0 for its commonest colour; None for a picture of many colours, or of one."""
    packed = colours.astype(np.float64) if colours.ndim == 2 else colours.astype(np.float64) @ (1.0, 1 << 16, 1 << 32)
    if len(np.unique(packed[:: 1 + packed.shape[0] // 32, :: 1 + packed.shape[1] // 32])) > COLOURS:
        return None  # a photo is told without counting all its colours
    found, numbers, counts = np.unique(packed, return_inverse=True, return_counts=True)
    if not 1 < len(found) <= COLOURS:
        return None
    ranks = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    return ranks[numbers.reshape(packed.shape)].astype(np.uint8)


class MaskReader:
    """Reads masks, and remembers what is to be said of them (`sentences`)."""

    def __init__(self) -> None:
        self.count = 0
        self.grey: list[str] = []
        self.dim: list[str] = []
        self.changed: list[str] = []
        self.labels: list[str] = []
        self.classes: list[str] = []
        self.alpha: list[str] = []
        self.open: list[str] = []
        self.all: list[str] = []
        self.most: list[str] = []
        self.none: list[str] = []

    def read(self, paths: Path | Sequence[Path], shape: tuple[int, int]) -> Mask:
        """The mask of one image of `shape`, of one file or folder or several united. Raises ImageError."""
        several = [paths] if isinstance(paths, Path) else list(paths)
        mask, facts = read_with_facts(several[0], shape) if len(several) == 1 else _united(several, shape)
        name = several[0].name
        self.count += 1
        for chosen, applies in (
            (self.grey, any(one.kind == "grey" for one in facts)),
            (self.dim, any(one.dim for one in facts)),
            (self.changed, any(one.changed for one in facts)),
            (self.labels, any(one.kind == "labels" for one in facts)),
            (self.classes, any(one.kind == "classes" for one in facts)),
            (self.alpha, any(one.alpha for one in facts)),
            (self.open, any(one.open for one in facts)),
            (self.all, bool(mask.all())),
            (self.most, bool(mask.mean() > 0.5 and not mask.all())),
            (self.none, not mask.any()),
        ):
            if applies:
                chosen.append(name)
        return mask

    def sentences(self) -> list[str]:
        """What a user should know, a line each; empty where all masks are of two levels and mark something."""
        told = (
            (self.grey, "have many levels of grey", "what is brighter than half of full scale counts as defective"),
            (self.dim, "are drawn darker than white", "half of the level of their areas was taken instead"),
            (
                self.changed,
                "are JPEG files of class numbers, which JPEG changes",
                "what they mark is not what was drawn; save them as PNG",
            ),
            (self.labels, "number many objects", "every number but 0 counts as defective"),
            (self.classes, "hold several classes", "every one but the background counts as defective"),
            (self.alpha, "are drawn in the alpha channel alone", "it was taken for the mask"),
            (self.open, "leave open which colour is the background", "the commonest was taken"),
            (self.all, "mark every pixel of their image", "save them with 0 where the part is good"),
            (
                self.most,
                "mark more than half of their image",
                "if they are inverted, save them with 0 where the part is good",
            ),
            (self.none, "mark no pixel", "where these defects lie is not known"),
        )
        return [f"{len(names)} of {self.count} masks {what} ({names[0]}, …): {so}" for names, what, so in told if names]
