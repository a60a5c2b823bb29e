"""Folders of users: good/ beside bad/ or a folder a kind of defect, and images alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flawmap.data.layouts.listing import Sample, Split
from flawmap.data.layouts.names import (
    BAD_WORDS,
    SPLITS,
    is_bad,
    is_good,
    is_mask_folder,
    may_be_good,
    may_be_mask_folder,
    plain,
    said_by_stem,
)
from flawmap.data.layouts.tree import Tree, alternate, stems
from flawmap.data.layouts.truth import Truth
from flawmap.errors import LayoutError


def folder(tree: Tree) -> list[Sample] | None:
    """good/ and, if any, bad/ (or one folder a kind of defect), and their masks."""
    folders = tree.folders()
    good = [name for name in folders if is_good(name)]
    if not good:
        return None
    others = [name for name in folders if name not in good and not is_mask_folder(name)]
    if halves := [name for name in others if plain(name) in SPLITS]:
        raise LayoutError(
            f"{tree.root}: which images of {halves[0]} are good? It lies beside {good[0]}; name folders good and bad, "
            "or train/good and test/good"
        )
    if good == ["0"] and len(others) > 1 and all(name.isdigit() for name in others):
        raise LayoutError(
            f"{tree.root}: which images are good? The folders {', '.join(['0', *others][:5])} are classes, and 0 "
            "may be a kind of defect; name the folder of good ones good"
        )
    ask_about(tree, [Path(name) for name in others])
    truth = Truth(tree)
    photos = [path for name in good for path in tree.images(name, deep=True) if path not in truth.masks]
    bad = {name: [path for path in tree.images(name, deep=True) if path not in truth.masks] for name in others}
    split: dict[Path, Split] = alternate(photos) if any(bad.values()) else dict.fromkeys(photos, "train")
    samples = [Sample(path, split[path], False, "good") for path in photos]
    for name, paths in bad.items():
        for path in paths:
            inner = path.parent.relative_to(tree.root / name)
            found = _mask_of(tree, path, name, inner) or truth.of(path)
            kind = inner.parts[0] if inner.parts else name
            samples.append(Sample(path, "test", True, kind, found[0] if found else None, tuple(found[1:])))
    return samples


def ask_about(tree: Tree, kinds: Sequence[Path]) -> None:
    """Raise LayoutError where one of the folders `kinds`, below the root, may be of good parts, or of neither kind."""
    if (doubtful := next((kind for kind in kinds if may_be_good(kind.name)), None)) is not None:
        raise LayoutError(
            f"{tree.root}: are the images in {doubtful} good or defective? Name the folder good or bad, or after the "
            "kind of defect, or move it away"
        )


def _mask_of(tree: Tree, path: Path, name: str, inner: Path) -> tuple[Path, ...]:
    """The mask beside a photo, or in masks/, mask/ or ground_truth/ under the same path."""
    if beside := tree.first(path.parent, stems(path.stem, "_mask")):
        return (beside,)
    for masks in ("masks", "mask", "ground_truth"):
        for part in (Path(name) / inner, inner, Path()):
            if found := tree.first(tree.root / masks / part, stems(path.stem, "_mask", "")):
                return (found,)
    return ()


def only_images(tree: Tree) -> list[Sample] | None:
    """Only images: all of them good, to learn from."""
    return [Sample(path, "train", False, "good") for path in tree.images_found] or None


def by_names(tree: Tree) -> tuple[list[Sample], str] | None:
    """Photos of one folder sorted by the words good or bad in the names of all of them (OK_0.png, part3_ng.png), and a
    note on it; None where not every name says one of them, or none says bad."""
    if tree.folders() and tree.images():
        if not all(is_mask_folder(name) for name in tree.folders()):
            return None
    elif len(tree.folders()) > 1 or any(map(is_bad, tree.folders())):
        return None
    if plain(tree.root.resolve().name) in BAD_WORDS or not any(said_by_stem(path.stem) for path in tree.images_found):
        return None
    truth = Truth(tree)
    said = {path: said_by_stem(path.stem) for path in truth.photos}
    if set(said.values()) != {"good", "bad"}:
        return None
    good, bad = ([path for path, word in said.items() if word == wanted] for wanted in ("good", "bad"))
    split = alternate(good)
    samples = [Sample(path, split[path], False, "good") for path in good]
    for path in bad:
        masks = truth.of(path)
        samples.append(Sample(path, "test", True, "bad", masks[0] if masks else None, masks[1:]))
    note = (
        f"sorted by the words in the file names: {len(good)} good ({good[0].name}, …), {len(bad)} defective "
        f"({bad[0].name}, …)"
    )
    return samples, note


def refuse_bad_names(root: Path, images: Sequence[Path], cure: str) -> None:
    """Raise LayoutError where names of some of the files say that they are of defective parts."""
    bad = [path for path in images if said_by_stem(path.stem) == "bad"]
    if bad:
        raise LayoutError(
            f"{root}: which images are good? The names of {len(bad)} of {len(images)} say that they are defective "
            f"({bad[0].name}, …); {cure}"
        )


def refuse_doubtful(tree: Tree) -> None:
    """Images that may be of defective parts, or masks, are not learned from unasked. Raises LayoutError."""
    folders = tree.folders()
    masks = [name for name in folders if is_mask_folder(name)]
    if len(folders) > 1 or masks:
        inside = [name for half in folders for name in _inside(tree, half)]
        names = ", ".join(inside[:5]) + (", …" if inside[5:] else "")
        raise LayoutError(
            f"{tree.root}: which images are good? there are some in {names}; name folders good and bad, "
            "or give --layout images if all are good"
        )
    own = tree.root.resolve().name
    named = [name for name in folders if is_bad(name)] or [own for _ in (1,) if plain(own) in BAD_WORDS]
    if named:
        raise LayoutError(
            f"{tree.root}: which images are good? All lie in {named[0]}, a name for defective parts; put good ones "
            "into a folder good beside it, or give --layout images if all are good"
        )
    if (unsure := [name for name in folders if may_be_mask_folder(name)]) and tree.images():
        raise LayoutError(
            f"{tree.root}: which images are good? there are some in {unsure[0]}, which may hold masks; name folders "
            "good and bad, or give --layout images if all are good"
        )
    if masks_beside := sorted(Truth(tree).masks):
        raise LayoutError(
            f"{tree.root}: which images are good? {len(masks_beside)} look like masks of others "
            f"({masks_beside[0].name}, …); name folders good and bad, or give --layout images if all are good"
        )
    cure = "put good and defective ones into folders good and bad, or give --layout images if all are good"
    refuse_bad_names(tree.root, tree.images_found, cure)


def _inside(tree: Tree, name: str) -> list[str]:
    """A folder's name; of train and test, the names of what is in them, as these name the parts."""
    inner = tree.folders(name) if plain(name) in SPLITS else []
    return [f"{name}/{kind}" for kind in inner] or [name]


def refuse_doubtful_among_good(folder: Path) -> None:
    """Raise LayoutError where a folder given as one of good photos is named as one of defective parts, holds such a
    folder, or one that may be of either, or masks; folders by part or camera are as good as their name."""
    tree = Tree(folder)
    cure = "give the folders of good photos alone, or the files themselves if all are good"
    inside = sorted({path.relative_to(folder).parent for path in tree.images_found})
    own = folder.resolve().name
    for part in dict.fromkeys([own, *(part for place in inside for part in place.parts)]):
        if is_bad(part):
            raise LayoutError(f"{folder}: are these images good? {part} is a name for defective parts; {cure}")
        if part != own and not is_good(part) and (may_be_good(part) or plain(part) in SPLITS):
            raise LayoutError(f"{folder}: are the images in {part} good? {cure[0].upper()}{cure[1:]}")
    truth = Truth(tree)
    if truth.masks:
        raise LayoutError(
            f"{folder}: which images are good? {len(truth.masks)} look like masks of others "
            f"({min(truth.masks).relative_to(folder)}, …); {cure}"
        )
    unsure = [part for place in inside for part in place.parts if may_be_mask_folder(part)]
    if unsure:
        raise LayoutError(f"{folder}: are the images in {unsure[0]} photos of good parts? It may hold masks; {cure}")
    refuse_bad_names(folder, tree.images_found, cure)
