"""Defective photos to learn from: the defective ones of any known layout, or a folder of such photos alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flawmap.data.categories import holds_data_sets
from flawmap.data.layouts import EXPECTED, GOOD_NAMES, Listing, Sample, find_images, read_layout
from flawmap.errors import DataError, LayoutError

MASKS = ("masks", "mask", "ground_truth")
MARK = "_mask"


def read_defects(folder: str | Path) -> Listing:
    """The defective images of `folder`, with their masks where there are some.

    A data set or a csv gives those it calls defective. In any other folder every image is one; its mask lies beside it
    as NAME_mask.png, or in a folder masks, mask or ground_truth, under the same path, with or without _mask. Raises
    LayoutError when there is none, for a data set that cannot be read, and for a folder that holds good photos too.
    """
    folder = Path(folder)
    if not folder.is_dir() or holds_data_sets(folder):
        listing = read_layout(folder)
        defective = tuple(sample for sample in listing.samples if sample.defective)
        if not defective:
            raise LayoutError(f"{folder} holds no defective images; name a folder of them with --defects")
        return replace(listing, samples=defective)
    try:
        found = find_images([folder])
    except DataError as problem:
        raise LayoutError(str(problem)) from problem
    places = {path: tuple(part.lower() for part in path.relative_to(folder).parts[:-1]) for path in found}
    if good := next((path for path, parts in places.items() if GOOD_NAMES & set(parts)), None):
        raise LayoutError(f"{good} lies in a folder of good images; name a folder of defective ones with --defects")
    # Names are compared without regard to case: part.PNG has part_mask.png.
    files = {(parts, path.stem.lower()): path for path, parts in places.items()}
    samples = []
    for path, parts in places.items():
        stem = path.stem.lower()
        if set(parts) & set(MASKS) or (stem.endswith(MARK) and (parts, stem.removesuffix(MARK)) in files):
            continue
        beside = [(parts, stem + MARK)]
        apart = [((name, *inner), stem + end) for name in MASKS for inner in (parts, ()) for end in (MARK, "")]
        mask = next((files[key] for key in (*beside, *apart) if key in files), None)
        samples.append(Sample(path, "train", True, parts[0] if parts else "defect", mask))
    if not samples:
        raise LayoutError(f"no defective images in {folder}, only masks; expected {EXPECTED} beside them")
    return Listing(folder, "defects", tuple(samples))
