"""Defective photos to learn from: the defective ones of any known layout, or a folder of such photos alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from flawmap.data.categories import holds_data_sets
from flawmap.data.layouts import EXPECTED, Listing, Sample, read_layout
from flawmap.data.layouts.names import is_good, said_by_stem
from flawmap.data.layouts.tree import Tree, left_notes
from flawmap.data.layouts.truth import Truth
from flawmap.errors import LayoutError
from flawmap.given import place_given


def read_defects(folder: str | PathLike[str]) -> Listing:
    """The defective images of `folder`, with their masks where there are some.

    A data set or a csv gives those it calls defective. In any other folder every image is one but the masks, which lie
    beside their photos or in a folder of their own (layouts/truth.py). Raises LayoutError when there is none, for a
    data set that cannot be read, and for a folder that holds good photos too.
    """
    folder = place_given(folder, "a folder of defective photos", LayoutError)
    if not folder.is_dir() or holds_data_sets(folder):
        listing = read_layout(folder)
        defective = tuple(sample for sample in listing.samples if sample.defective)
        if not defective:
            raise LayoutError(f"{folder} holds no defective images; name a folder of them with --defects")
        return replace(listing, samples=defective)
    tree = Tree(folder)
    if not tree.images_found:
        raise LayoutError(f"no images in {folder}; expected {EXPECTED}")
    places = {path: path.relative_to(folder).parts[:-1] for path in tree.images_found}
    if good := next((path for path, parts in places.items() if any(map(is_good, parts))), None):
        raise LayoutError(f"{good} lies in a folder of good images; name a folder of defective ones with --defects")
    said = {said_by_stem(path.stem): path for path in tree.images_found}
    if {"good", "bad"} <= set(said):
        raise LayoutError(
            f"{said['good']} is named as of a good part, and others as defective; give a folder of the defective ones "
            "with --defects"
        )
    truth = Truth(tree)
    samples = []
    for path in truth.photos:
        masks = truth.of(path)
        kind = places[path][0].lower() if places[path] else "defect"
        samples.append(Sample(path, "train", True, kind, masks[0] if masks else None, masks[1:]))
    if not samples:
        raise LayoutError(f"no defective images in {folder}, only masks; expected {EXPECTED} beside them")
    passed_over, notes = left_notes(tree)
    return Listing(folder, "defects", tuple(samples), tuple(notes), tuple(passed_over))


def defective_photos(images: Sequence[Path], given: Sequence[Path]) -> tuple[list[Path], int]:
    """`images` of the files and folders `given` without masks of others, and how many these are. Raises LayoutError
    where it stays in doubt which are masks."""
    masks: set[Path] = set()
    for folder in (path for path in given if path.is_dir()):
        masks |= Truth(Tree(folder)).masks
    kept = [path for path in images if path not in masks]
    if images and not kept:
        raise LayoutError(f"no defective images in {given[0]}, only masks; expected {EXPECTED} beside them")
    return kept, len(images) - len(kept)
