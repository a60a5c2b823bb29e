"""KolektorSDD and KolektorSDD2: every image has its mask beside it, black for a good part."""

from __future__ import annotations

import re
from pathlib import Path

from flawmap.data.layouts.listing import Sample, Split
from flawmap.data.layouts.names import is_copy
from flawmap.data.layouts.tree import Tree, alternate, stems
from flawmap.errors import LayoutError


def kolektor(tree: Tree) -> list[Sample] | None:
    """KolektorSDD: kosNN/PartM.jpg with PartM_label.bmp, black for a good part; other files are strays."""
    from flawmap.data.images import read_image
    from flawmap.data.masks import read_mask

    parts = [
        path
        for path in tree.images_found
        if path.parent.name.lower().startswith("kos") and not path.stem.lower().endswith("_label")
    ]
    labels = {path: tree.first(path.parent, stems(path.stem, "_label")) for path in parts}
    if not parts or not any(labels.values()):
        return None
    labels = {path: label for path, label in labels.items() if not _is_stray(path, label, r"part\d+", "_label")}
    defective: dict[Path, Path] = {}
    for path, label in labels.items():
        if label is None:
            raise LayoutError(f"{path}: its mask {path.stem}_label.bmp is missing; in KolektorSDD every image has one")
        tree.used.add(label)
        if read_mask(label, read_image(label).shape[:2]).any():  # the label says good by being black
            defective[path] = label
    split = alternate([path for path in labels if path not in defective])
    samples = [Sample(path, split[path], False, "good") for path in labels if path in split]
    return samples + [Sample(path, "test", True, "defect", mask) for path, mask in defective.items()]


def kolektor2(tree: Tree) -> list[Sample] | None:
    """KSDD2: train/ and test/ with NNN.png and NNN_GT.png; only the defect-free training images are learned from.

    Files of other names are strays: the authors' archive holds two copies.
    """
    from flawmap.data.images import read_image
    from flawmap.data.masks import read_mask

    if not any(path.stem.endswith("_GT") for path in tree.images("train") + tree.images("test")):
        return None
    samples = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for path in tree.images(split):
            if path.stem.endswith("_GT"):
                continue
            mask = tree.first(path.parent, stems(path.stem, "_GT"))
            if _is_stray(path, mask, r"\d+", "_GT"):
                continue
            if mask is None:
                raise LayoutError(
                    f"{path}: its mask {path.stem}_GT.png is missing; in KolektorSDD2 every image has one"
                )
            tree.used.add(mask)
            bad = bool(read_mask(mask, read_image(mask).shape[:2]).any())
            samples.append(Sample(path, split, bad, "defect" if bad else "good", mask if bad else None))
    return samples


def _is_stray(path: Path, mask: Path | None, usual: str, ending: str) -> bool:
    """Whether a file is none of the data set's: named as a copy, or not as its images are and without a mask."""
    named = path.stem.replace(ending, "").strip()
    return is_copy(path.stem) or (mask is None and re.fullmatch(usual, named, re.IGNORECASE) is None)
