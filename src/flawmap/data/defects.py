"""Defective photos to learn from: the defective ones of any known layout, or a folder of such photos alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flawmap.data.images import SUFFIXES
from flawmap.data.layouts import EXPECTED, Listing, Sample, find_images, read_layout
from flawmap.errors import DataError, LayoutError

MASKS = ("masks", "mask", "ground_truth")
MARK = "_mask"


def read_defects(folder: str | Path) -> Listing:
    """The defective images of `folder`, with their masks where there are some.

    A data set or a csv gives those it calls defective. In any other folder every image is one; its mask lies beside it
    as NAME_mask.png, or in a folder masks, mask or ground_truth, under the same path, with or without _mask. Raises
    LayoutError when there is none.
    """
    folder = Path(folder)
    try:
        listing = read_layout(folder)
        defective = tuple(sample for sample in listing.samples if sample.defective)
        if defective or listing.layout != "images":
            if not defective:
                raise LayoutError(f"{folder} holds no defective images; name a folder of them with --defects")
            return replace(listing, samples=defective)
    except LayoutError:
        if not folder.is_dir():
            raise
    try:
        found = find_images([folder])
    except DataError as problem:
        raise LayoutError(str(problem)) from problem
    samples = []
    known = set(found)
    for path in found:
        inner = path.relative_to(folder)
        if any(part.lower() in MASKS for part in inner.parts[:-1]) or _photo_of(path) & known:
            continue
        places = [path.parent, *(folder / name / inner.parent for name in MASKS), *(folder / name for name in MASKS)]
        stems = [(path.stem + MARK,), *[(path.stem + MARK, path.stem)] * (len(places) - 1)]
        candidates = (
            place / (stem + suffix)
            for place, names in zip(places, stems, strict=True)
            for stem in names
            for suffix in sorted(SUFFIXES)
        )
        mask = next((candidate for candidate in candidates if candidate in known), None)
        kind = inner.parts[0] if len(inner.parts) > 1 else "defect"
        samples.append(Sample(path, "train", True, kind, mask))
    if not samples:
        raise LayoutError(f"no defective images in {folder}, only masks; expected {EXPECTED} beside them")
    return Listing(folder, "defects", tuple(samples))


def _photo_of(mask: Path) -> set[Path]:
    """The photos that a file may be the mask of, by its name; empty for one that is not named as a mask."""
    if not mask.stem.endswith(MARK):
        return set()
    return {mask.with_name(mask.stem.removesuffix(MARK) + suffix) for suffix in SUFFIXES}
