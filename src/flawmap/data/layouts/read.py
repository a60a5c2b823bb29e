"""Folders of public data sets, and of users, as one list of samples.

A layout is recognised by what it cannot be without, the most particular first; what was recognised, and every file
that is left out and why, is said in `notes`. Layouts without a split of their own (KolektorSDD, Magnetic Tile, plain
folders) get a fixed one: of the good images in order of name, every fifth is for testing.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from flawmap.data.layouts.families import dagm, magnetic_tile, visa
from flawmap.data.layouts.folder import by_names, folder, only_images, refuse_doubtful
from flawmap.data.layouts.kolektor import kolektor, kolektor2
from flawmap.data.layouts.listing import EXPECTED, Listing, Sample, listed
from flawmap.data.layouts.mvtec import btad, mpdd, mvtec, mvtec_ad2, mvtec_loco
from flawmap.data.layouts.names import SPLITS, is_copy, is_mask_folder, plain
from flawmap.data.layouts.table import read_table, table
from flawmap.data.layouts.tree import Tree, left_notes, refuse_no_folder
from flawmap.errors import LayoutError
from flawmap.given import place_given

_READERS: dict[str, Callable[[Tree], list[Sample] | None]] = {
    "csv": table,
    "mvtec-loco": mvtec_loco,
    "mvtec-ad2": mvtec_ad2,
    "btad": btad,
    "mvtec": mvtec,
    "mpdd": mpdd,
    "visa": visa,
    "kolektor2": kolektor2,
    "kolektor": kolektor,
    "dagm": dagm,
    "magnetic-tile": magnetic_tile,
    "folder": folder,
    "images": only_images,
}
LAYOUTS = tuple(_READERS)
_MPDD_OBJECTS = frozenset({"bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"})
_OWN_SPLIT = frozenset(LAYOUTS) - {"kolektor", "magnetic-tile", "folder", "images"}


def read_layout(root: str | PathLike[str], layout: str = "auto", category: str | None = None) -> Listing:
    """Read a folder, or a csv file, as samples.

    `layout`: `auto` or a name in LAYOUTS; `category`: a folder below `root`, for data sets of several. Raises
    LayoutError when nothing usable is there, when several categories are and none is chosen, or for an unknown layout.
    """
    root = place_given(root, "a folder of photos", LayoutError)
    if category is not None:
        category = str(place_given(category, "a category", LayoutError))
    if layout not in ("auto", *LAYOUTS):
        raise LayoutError(f"no layout {layout}; there are: auto, {', '.join(LAYOUTS)}")
    try:
        return _read(root, layout, category)
    except PermissionError as problem:
        raise LayoutError(f"{problem.filename}: no permission to read it; change its permissions") from problem


def listing_of(given: Listing | str | PathLike[str], say: Callable[[str], object] = lambda line: None) -> Listing:
    """A listing, or `read_layout` of a folder or csv, of whose notes `say` is told. Raises LayoutError."""
    if isinstance(given, Listing):
        return given
    listing = read_layout(place_given(given, "a folder, a csv or what read_layout gives", LayoutError))
    for note in listing.notes:
        say(note)
    return listing


def _read(root: Path, layout: str, category: str | None) -> Listing:
    if root.is_file() and root.suffix.lower() == ".csv":
        if layout not in ("auto", "csv"):
            raise LayoutError(f"{root} is a csv and cannot be read as {layout}; give its folder")
        samples = read_table(root)
        return listed(root.parent, "csv", samples, [f"{root.name}: read as a csv of {len(samples)} images"])
    refuse_no_folder(root)
    if category is not None:
        if not (root / category).is_dir():
            known = ", ".join(
                sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
            )
            raise LayoutError(f"{root}: no category {category}; there are: {known}")
        root = root / category
    tree = Tree(root)
    if not tree.images_found and not (root / "split.csv").exists():
        _, notes = left_notes(tree)
        raise LayoutError(f"no images in {root}; expected {EXPECTED}" + (f" ({'; '.join(notes)})" if notes else ""))
    for name in LAYOUTS if layout == "auto" else [layout]:
        if layout == "auto" and name == "images":
            _refuse_categories(tree)
            if (named := by_names(tree)) is not None:
                passed_over, notes = left_notes(tree)
                said = [*_notes(tree, "folder", named[0], forced=False), named[1], *notes]
                return listed(root, "folder", named[0], said, tuple(passed_over))
            refuse_doubtful(tree)
        if layout == "auto" and name == "mvtec" and root.resolve().name in _MPDD_OBJECTS:
            name = "mpdd"
        if (found := _READERS[name](tree)) is not None:
            passed_over, notes = left_notes(tree)
            said = _notes(tree, name, found, forced=layout != "auto") + notes
            return listed(root, name, found, said, tuple(passed_over))
    _refuse_categories(tree)
    raise LayoutError(f"{root} is not laid out as {layout}; try --layout auto, or see docs/data.md")


def _refuse_categories(tree: Tree) -> None:
    """A folder whose folders each are a data set of their own is not a pile of good images."""
    names = tree.folders()
    inner = {name: Tree(tree.root / name) for name in names if not is_mask_folder(name)}
    known = [name for name, below in inner.items() if any(_READERS[reader](below) for reader in LAYOUTS[:-1])]
    halves = [name for name in known if plain(name) in SPLITS]
    if halves:
        inside = [f"{name}/{kind}" for name in halves for kind in tree.folders(name)] or halves
        raise LayoutError(
            f"{tree.root}: which images are good? There are some in {', '.join(inside[:5])}{', …' * bool(inside[5:])}, "
            "but neither in train/good nor in test/good; name the folders of good parts so"
        )
    if known:
        raise LayoutError(f"{tree.root} holds several categories; choose one with --category: {', '.join(known)}")


def _notes(tree: Tree, name: str, samples: list[Sample], forced: bool) -> list[str]:
    good = sum(sample.split == "train" and sample.defective is False for sample in samples)
    tests = [sample for sample in samples if sample.split == "test"]
    fine, bad = (sum(sample.defective is wanted for sample in tests) for wanted in (False, True))
    verb = "read as asked" if forced else "recognised"
    notes = [f"layout {name} {verb}: {good} good images to learn from, {fine} good and {bad} defective to test on"]
    split_given = name in _OWN_SPLIT and (name != "visa" or any(path.suffix == ".csv" for path in tree.used))
    if tests and not split_given:
        notes.append("this layout has no split of its own: every fifth good image, in order of name, is for testing")
    taken = {sample.image for sample in samples} | {mask for sample in samples for mask in sample.masks} | tree.used
    left = [path for path in tree.images_found if path not in taken]
    if left:
        first = next((path for path in left if is_copy(path.stem)), left[0])
        notes.append(f"{len(left)} images are no part of the layout and left out ({first.relative_to(tree.root)}, …)")
    return notes
