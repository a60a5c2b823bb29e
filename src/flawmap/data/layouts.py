"""Folders of public data sets, and of users, as one list of samples.

A layout is recognised by what it cannot be without, the most particular first; what was recognised, and every file
that is left out and why, is said in `notes`. Layouts without a split of their own (KolektorSDD, Magnetic Tile, plain
folders) get a fixed one: of the good images in order of name, every fifth is for testing.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flawmap.data.images import SUFFIXES
from flawmap.errors import DataError, LayoutError, first_line

Split = Literal["train", "test"]
GOOD_NAMES = frozenset({"good", "ok", "normal", "free", "0"})
_MASK_FOLDERS = frozenset({"masks", "mask", "ground_truth"})
EXPECTED = " ".join(sorted(SUFFIXES))


@dataclass(frozen=True)
class Sample:
    """One image: its file, split, whether it is defective (None: unknown), the kind of defect or "good", its mask.

    The mask is a file, or a folder of masks that hold one defect each.
    """

    image: Path
    split: Split
    defective: bool | None
    kind: str
    mask: Path | None = None


@dataclass(frozen=True)
class Listing:
    """What a folder holds; `notes` are sentences to say aloud."""

    root: Path
    layout: str
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """Last part of the folder's path."""
        return self.root.resolve().name

    @property
    def train_good(self) -> tuple[Sample, ...]:
        """Good images to learn from."""
        return tuple(sample for sample in self.samples if sample.split == "train" and sample.defective is False)

    @property
    def test(self) -> tuple[Sample, ...]:
        """Images to measure on."""
        return tuple(sample for sample in self.samples if sample.split == "test")


class _Tree:
    """The files below a folder, and which of them a layout has accounted for."""

    def __init__(self, root: Path) -> None:
        self.root, self.used = root, set[Path]()
        self.files: list[Path] = []
        self.hidden: list[Path] = []
        problems: list[OSError] = []
        for folder, folders, names in os.walk(root, onerror=problems.append, followlinks=True):
            self.hidden += [Path(folder, name) for name in sorted([*folders, *names]) if name.startswith(".")]
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not _loops(Path(folder, name)))
            self.files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        if problems:
            raise LayoutError(f"{problems[0].filename}: the folder cannot be read; change its permissions")
        self.images_found = [path for path in self.files if path.suffix.lower() in SUFFIXES]
        self.present = set(self.files)

    def images(self, *parts: str, deep: bool = False) -> list[Path]:
        """Images in a folder below the root, or anywhere under it."""
        folder = self.root.joinpath(*parts)
        if deep:
            return [path for path in self.images_found if path.is_relative_to(folder)]
        return [path for path in self.images_found if path.parent == folder]

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder below the root, that hold images somewhere."""
        folder = self.root.joinpath(*parts)
        found = {
            path.relative_to(folder).parts[0]
            for path in self.images_found
            if path.is_relative_to(folder) and path.parent != folder
        }
        return sorted(found)

    def first(self, folder: Path, names: Iterable[str]) -> Path | None:
        """The first of the files `names` that `folder` holds."""
        return next((folder / name for name in names if folder / name in self.present), None)


def _loops(folder: Path) -> bool:
    """Whether a folder is a link to one it was reached through, or that holds it."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(above.resolve().is_relative_to(target) for above in folder.parents)


def _stems(stem: str, *endings: str) -> list[str]:
    return [
        stem + ending + suffix
        for ending in endings
        for suffix in (*sorted(SUFFIXES), *(s.upper() for s in sorted(SUFFIXES)))
    ]


def _alternate(paths: Sequence[Path]) -> dict[Path, Split]:
    """Of good images in order of name, every fifth for testing."""
    return {path: "test" if index % 5 == 4 else "train" for index, path in enumerate(sorted(paths))}


def _mvtec_like(tree: _Tree, tests: Sequence[str], masks: str) -> list[Sample]:
    """train/good, test/<kind>, masks/<kind>/<stem>_mask: MVTec AD and those who follow it."""
    samples = [Sample(path, "train", False, "good") for path in tree.images("train", "good")]
    for test in tests:
        for kind in tree.folders(test):
            for path in tree.images(test, kind, deep=True):
                folder = tree.root / masks / kind
                if kind in GOOD_NAMES:
                    samples.append(Sample(path, "test", False, "good"))
                    continue
                mask = tree.first(folder, _stems(path.stem, "_mask", "")) or _parts_mask(tree, folder / path.stem)
                samples.append(Sample(path, "test", True, kind, mask))
    return samples


def _parts_mask(tree: _Tree, folder: Path) -> Path | None:
    """LOCO keeps a folder of masks an image, one a defect: the only one, or the folder, which means all of them."""
    found = tree.images(*folder.relative_to(tree.root).parts)
    tree.used.update(found)
    return folder if len(found) > 1 else next(iter(found), None)


def _mvtec(tree: _Tree) -> list[Sample] | None:
    """Either half may be absent: a folder to learn from alone, or one to measure on."""
    if not tree.images("train", "good") and not tree.images("test", "good"):
        return None
    return _mvtec_like(tree, ["test"], "ground_truth")


def _mpdd(tree: _Tree) -> list[Sample] | None:
    """MPDD is laid out as MVTec AD is; it is told by the names of its objects."""
    return _mvtec(tree)


def _mvtec_loco(tree: _Tree) -> list[Sample] | None:
    """As MVTec AD; the good images of validation/ are learned from too, the published test set stays as it is."""
    if not {"logical_anomalies", "structural_anomalies"} & set(tree.folders("test")):
        return None
    samples = _mvtec_like(tree, ["test"], "ground_truth")
    return samples + [Sample(path, "train", False, "good") for path in tree.images("validation", "good")]


def _mvtec_ad2(tree: _Tree) -> list[Sample] | None:
    """train/ and validation/good to learn from; test_public/{good,bad,ground_truth/bad}; the private have no labels."""
    if not tree.folders("test_public"):
        return None
    samples = [Sample(path, "train", False, "good") for path in tree.images("train", "good")]
    samples += [Sample(path, "train", False, "good") for path in tree.images("validation", "good")]
    samples += [Sample(path, "test", False, "good") for path in tree.images("test_public", "good")]
    for path in tree.images("test_public", "bad"):
        mask = tree.first(tree.root / "test_public" / "ground_truth" / "bad", _stems(path.stem, "_mask", ""))
        samples.append(Sample(path, "test", True, "bad", mask))
    for split in ("test_private", "test_private_mixed"):
        samples += [Sample(path, "test", None, "unlabelled") for path in tree.images(split, deep=True)]
    return samples


def _kolektor(tree: _Tree) -> list[Sample] | None:
    """KolektorSDD: kosNN/PartM.jpg with PartM_label.bmp, black for a good part."""
    from flawmap.data.images import read_image, read_mask

    parts = [
        path
        for path in tree.images_found
        if path.parent.name.lower().startswith("kos") and not path.stem.endswith("_label")
    ]
    labels = {path: tree.first(path.parent, _stems(path.stem, "_label")) for path in parts}
    if not parts or not any(labels.values()):
        return None
    defective: dict[Path, Path] = {}
    for path, label in labels.items():
        if label is None:
            raise LayoutError(f"{path}: its mask {path.stem}_label.bmp is missing; in KolektorSDD every image has one")
        tree.used.add(label)
        if read_mask(label, read_image(label).shape[:2]).any():  # the label says good by being black
            defective[path] = label
    split = _alternate([path for path in parts if path not in defective])
    samples = [Sample(path, split[path], False, "good") for path in parts if path in split]
    return samples + [Sample(path, "test", True, "defect", mask) for path, mask in defective.items()]


def _kolektor2(tree: _Tree) -> list[Sample] | None:
    """KSDD2: train/ and test/ with NNN.png and NNN_GT.png; only the defect-free training images are learned from."""
    from flawmap.data.images import read_image, read_mask

    if not any(path.stem.endswith("_GT") for path in tree.images("train") + tree.images("test")):
        return None
    samples = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for path in tree.images(split):
            if path.stem.endswith("_GT"):
                continue
            mask = tree.first(path.parent, _stems(path.stem, "_GT"))
            if mask is None:
                raise LayoutError(
                    f"{path}: its mask {path.stem}_GT.png is missing; in KolektorSDD2 every image has one"
                )
            tree.used.add(mask)
            bad = bool(read_mask(mask, read_image(mask).shape[:2]).any())
            samples.append(Sample(path, split, bad, "defect" if bad else "good", mask if bad else None))
    return samples


def _visa(tree: _Tree) -> list[Sample] | None:
    """VisA: Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly; the split csv of the data set where it is."""
    folder = tree.root / "Data" / "Images"
    normal, anomaly = tree.images("Data", "Images", "Normal"), tree.images("Data", "Images", "Anomaly")
    if not normal or not anomaly:
        return None
    split = _alternate(normal)
    root = tree.root.resolve()
    for table in (root.parent / "split_csv" / "1cls.csv", root / "1cls.csv", root / "split_csv" / "1cls.csv"):
        if table.is_file():
            tree.used.add(tree.root / table.relative_to(root) if table.is_relative_to(root) else table)
            split = {}
            for number, row in _rows(table, ("object", "split", "label", "image")):
                if row["object"] != root.name:
                    continue
                path = folder / Path(row["image"]).parent.name / Path(row["image"]).name
                if row["split"] not in ("train", "test"):
                    raise LayoutError(f"{table} row {number}: split {row['split']!r}; expected train or test")
                if path not in tree.present:
                    raise LayoutError(f"{table} row {number}: {row['image']} is not there; download it again")
                split[path] = "train" if row["split"] == "train" else "test"
            if not split:
                raise LayoutError(
                    f"{table} has no rows of the object {root.name}; name the folder as the data set does"
                )
            break
    samples = [Sample(path, split[path], False, "good") for path in normal if path in split]
    for path in anomaly:
        mask = tree.first(tree.root / "Data" / "Masks" / "Anomaly", _stems(path.stem, ""))
        samples.append(Sample(path, split.get(path, "test"), True, "anomaly", mask))
    return samples


def _btad(tree: _Tree) -> list[Sample] | None:
    """BTAD: train/ok, test/{ok,ko}, ground_truth/ko with masks of the same stem."""
    if not tree.images("train", "ok") or not tree.folders("test"):
        return None
    samples = [Sample(path, "train", False, "good") for path in tree.images("train", "ok")]
    samples += [Sample(path, "test", False, "good") for path in tree.images("test", "ok")]
    for path in tree.images("test", "ko"):
        samples.append(
            Sample(
                path, "test", True, "ko", tree.first(tree.root / "ground_truth" / "ko", _stems(path.stem, "", "_mask"))
            )
        )
    return samples


def _dagm(tree: _Tree) -> list[Sample] | None:
    """DAGM 2007: Train/ and Test/ with NNNN.PNG; a defective one has Label/NNNN_label.PNG (a coarse ellipse)."""
    if not (tree.images("Train", "Label") or tree.images("Test", "Label")):
        return None
    samples = []
    splits: tuple[tuple[str, Split], ...] = (("Train", "train"), ("Test", "test"))
    for folder, split in splits:
        for path in tree.images(folder):
            mask = tree.first(tree.root / folder / "Label", _stems(path.stem, "_label"))
            samples.append(Sample(path, split, mask is not None, "good" if mask is None else "defect", mask))
    return samples


def _magnetic_tile(tree: _Tree) -> list[Sample] | None:
    """Magnetic Tile: MT_Free/Imgs/*.jpg, MT_<Defect>/Imgs/*.jpg with a .png mask, black beside a good one."""
    kinds = [name for name in tree.folders() if name.startswith("MT_")]
    if "MT_Free" not in kinds:
        return None
    samples = []
    for name in kinds:
        photos = [path for path in tree.images(name, deep=True) if path.suffix.lower() != ".png"]
        split = _alternate(photos)
        kind = name.removeprefix("MT_").lower()
        for path in photos:
            mask = tree.first(path.parent, [path.stem + ".png"])
            if kind == "free":
                samples.append(Sample(path, split[path], False, "good"))
                tree.used.update([mask] if mask else [])
            else:
                samples.append(Sample(path, "test", True, kind, mask))
    return samples


def _folder(tree: _Tree) -> list[Sample] | None:
    """good/ and, if any, bad/ (or one folder a kind of defect), masks/ with the same names or <stem>_mask beside."""
    folders = tree.folders()
    good = [name for name in folders if name.lower() in GOOD_NAMES]
    if not good:
        return None
    photos = [path for name in good for path in tree.images(name, deep=True)]
    others = [name for name in folders if name not in good and name.lower() not in _MASK_FOLDERS]
    split: dict[Path, Split] = _alternate(photos) if others else dict.fromkeys(photos, "train")
    samples = [Sample(path, split[path], False, "good") for path in photos]
    for name in others:
        for path in tree.images(name, deep=True):
            if path.stem.endswith("_mask") and tree.first(path.parent, _stems(path.stem.removesuffix("_mask"), "")):
                tree.used.add(path)
                continue
            inner = path.parent.relative_to(tree.root / name)
            places = [
                path.parent,
                *(
                    tree.root / mask / part
                    for mask in ("masks", "mask", "ground_truth")
                    for part in (Path(name) / inner, inner, Path())
                ),
            ]
            endings = [("_mask",), *[("_mask", "")] * (len(places) - 1)]
            found = (
                tree.first(place, _stems(path.stem, *ending)) for place, ending in zip(places, endings, strict=True)
            )
            kind = inner.parts[0] if inner.parts else name
            samples.append(Sample(path, "test", True, kind, next((mask for mask in found if mask), None)))
    return samples


def _only_images(tree: _Tree) -> list[Sample] | None:
    """Only images: all of them good, to learn from."""
    return [Sample(path, "train", False, "good") for path in tree.images_found] or None


def _csv(tree: _Tree) -> list[Sample] | None:
    """split.csv with the columns image,split,label,mask, paths relative to the folder."""
    table = tree.root / "split.csv"
    if table not in tree.present:
        return None
    return read_table(table)


def read_table(table: Path) -> list[Sample]:
    """Samples of a csv `image,split,label,mask`; label good, ok or normal means good, empty means unknown.

    Raises LayoutError, naming the row, for a missing column or file or a split other than train and test.
    """
    samples = []
    rows: dict[Path, int] = {}
    for number, row in _rows(table, ("image", "split", "label")):
        image = table.parent / row["image"].strip()
        label, mask = row["label"].strip(), (row.get("mask") or "").strip()
        given = row["split"].strip().lower()
        if given not in ("train", "test"):
            raise LayoutError(f"{table} row {number}: split {row['split']!r}; expected train or test")
        if rows.setdefault(image, number) != number:
            raise LayoutError(f"{table} row {number}: {row['image']} is in row {rows[image]} already; keep one of them")
        for path in (image, *([table.parent / mask] if mask else [])):
            if not path.is_file():
                raise LayoutError(f"{table} row {number}: there is no file {path}; correct the row or add the file")
        good = label.lower() in GOOD_NAMES
        defective = None if not label else not good
        kind = "good" if good else label or "unlabelled"
        split: Split = "train" if given == "train" else "test"
        samples.append(Sample(image, split, defective, kind, table.parent / mask if mask and not good else None))
    if not samples:
        raise LayoutError(f"{table} lists no images; add a row for each")
    return samples


def _rows(table: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows by column, each with its line in the file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise LayoutError(f"{table} has no column {', '.join(missing)}; expected {','.join(columns)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise LayoutError(f"{table} cannot be read as a UTF-8 csv ({first_line(problem)}); save it again") from problem
    for number, row in rows:
        if any(row[name] is None for name in columns):
            raise LayoutError(f"{table} row {number} has too few columns; expected {','.join(columns)}")
    return rows


_READERS: dict[str, Callable[[_Tree], list[Sample] | None]] = {
    "csv": _csv,
    "mvtec-loco": _mvtec_loco,
    "mvtec-ad2": _mvtec_ad2,
    "mvtec": _mvtec,
    "mpdd": _mpdd,
    "btad": _btad,
    "visa": _visa,
    "kolektor2": _kolektor2,
    "kolektor": _kolektor,
    "dagm": _dagm,
    "magnetic-tile": _magnetic_tile,
    "folder": _folder,
    "images": _only_images,
}
LAYOUTS = tuple(_READERS)
_MPDD_OBJECTS = frozenset({"bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"})
_OWN_SPLIT = frozenset(LAYOUTS) - {"kolektor", "magnetic-tile", "folder", "images"}


def read_layout(root: str | Path, layout: str = "auto", category: str | None = None) -> Listing:
    """Read a folder, or a csv file, as samples.

    `layout`: `auto` or a name in LAYOUTS; `category`: a folder below `root`, for data sets of several. Raises
    LayoutError when nothing usable is there, when several categories are and none is chosen, or for an unknown layout.
    """
    if layout not in ("auto", *LAYOUTS):
        raise LayoutError(f"no layout {layout}; there are: auto, {', '.join(LAYOUTS)}")
    try:
        return _read(Path(root), layout, category)
    except PermissionError as problem:
        raise LayoutError(f"{problem.filename}: no permission to read it; change its permissions") from problem


def _read(root: Path, layout: str, category: str | None) -> Listing:
    if root.is_file() and root.suffix.lower() == ".csv":
        if layout not in ("auto", "csv"):
            raise LayoutError(f"{root} is a csv and cannot be read as {layout}; give its folder")
        samples = read_table(root)
        return _listing(root.parent, "csv", samples, [f"{root.name}: read as a csv of {len(samples)} images"])
    if not root.is_dir():
        raise LayoutError(f"{root}: there is no such folder")
    if category is not None:
        if not (root / category).is_dir():
            known = ", ".join(
                sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
            )
            raise LayoutError(f"{root}: no category {category}; there are: {known}")
        root = root / category
    tree = _Tree(root)
    if not tree.images_found and not (root / "split.csv").exists():
        raise LayoutError(f"no images in {root}; expected {EXPECTED}")
    for name in LAYOUTS if layout == "auto" else [layout]:
        if layout == "auto" and name == "images":
            _refuse_categories(tree)
            _refuse_unknown_folders(tree)
        if layout == "auto" and name == "mvtec" and root.resolve().name in _MPDD_OBJECTS:
            name = "mpdd"
        if (found := _READERS[name](tree)) is not None:
            return _listing(root, name, found, _notes(tree, name, found, forced=layout != "auto"))
    _refuse_categories(tree)
    raise LayoutError(f"{root} is not laid out as {layout}; try --layout auto, or see docs/data.md")


def _refuse_categories(tree: _Tree) -> None:
    """A folder whose folders each are a data set of their own is not a pile of good images."""
    inner = {name: _Tree(tree.root / name) for name in tree.folders()}
    known = [name for name, below in inner.items() if any(_READERS[reader](below) for reader in LAYOUTS[:-1])]
    if known:
        raise LayoutError(f"{tree.root} holds several categories; choose one with --category: {', '.join(known)}")


def _refuse_unknown_folders(tree: _Tree) -> None:
    """Images in several folders may be of defective parts, or masks: they are not learned from unasked."""
    folders = tree.folders()
    if len(folders) > 1 or _MASK_FOLDERS & {name.lower() for name in folders}:
        names = ", ".join(folders[:5]) + (", …" if folders[5:] else "")
        raise LayoutError(
            f"{tree.root}: which images are good? there are some in {names}; name folders good and bad, "
            "or give --layout images if all are good"
        )


def _listing(root: Path, layout: str, samples: list[Sample], notes: list[str]) -> Listing:
    owners: dict[Path, Path] = {}
    for sample in samples:
        if sample.mask is not None and owners.setdefault(sample.mask, sample.image) != sample.image:
            raise LayoutError(
                f"{sample.mask} would be the mask of both {owners[sample.mask]} and {sample.image}; give each its own"
            )
    maskless = [sample for sample in samples if sample.defective and sample.mask is None and sample.split == "test"]
    if maskless:
        notes.append(
            f"{len(maskless)} defective test images have no mask ({maskless[0].image.name}, …): they count for "
            "detection and are left out of localization"
        )
    unlabelled = [sample for sample in samples if sample.defective is None]
    if unlabelled:
        notes.append(
            f"{len(unlabelled)} images have no label ({unlabelled[0].image.name}, …): they are neither learned from "
            "nor measured on"
        )
    defective = [sample for sample in samples if sample.defective and sample.split == "train"]
    if defective:
        notes.append(f"{len(defective)} defective training images ({defective[0].image.name}, …) are not learned from")
    return Listing(root, layout, tuple(samples), tuple(notes))


def _notes(tree: _Tree, name: str, samples: list[Sample], forced: bool) -> list[str]:
    good = sum(sample.split == "train" and sample.defective is False for sample in samples)
    tests = [sample for sample in samples if sample.split == "test"]
    fine, bad = (sum(sample.defective is wanted for sample in tests) for wanted in (False, True))
    verb = "read as asked" if forced else "recognised"
    notes = [f"layout {name} {verb}: {good} good images to learn from, {fine} good and {bad} defective to test on"]
    split_given = name in _OWN_SPLIT and (name != "visa" or any(path.suffix == ".csv" for path in tree.used))
    if tests and not split_given:
        notes.append("this layout has no split of its own: every fifth good image, in order of name, is for testing")
    taken = {sample.image for sample in samples} | {sample.mask for sample in samples} | tree.used
    left = [path for path in tree.images_found if path not in taken]
    if left:
        notes.append(f"{len(left)} images are no part of the layout and left out ({left[0].relative_to(tree.root)}, …)")
    others = [path for path in tree.files if path.suffix.lower() not in SUFFIXES and path not in taken]
    others = [path for path in others if path.name != "split.csv"]
    if others:
        notes.append(f"{len(others)} files are not images and left out ({others[0].relative_to(tree.root)}, …)")
    if tree.hidden:
        first = tree.hidden[0].relative_to(tree.root)
        notes.append(f"{len(tree.hidden)} hidden files or folders are left out ({first}, …)")
    return notes


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Files, and the images below folders, in order; each once.

    Raises DataError for one that is not there and a folder without images.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = _Tree(path).images_found
            if not inside:
                raise DataError(f"no images in {path}; expected {EXPECTED}")
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None  # a file named outright is tried, whatever its suffix
        else:
            raise DataError(f"{path}: there is no such file or folder")
    if not found:
        raise DataError("no images given; name files or folders")
    return list(found)
