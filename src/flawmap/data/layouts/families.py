"""VisA, DAGM 2007 and Magnetic Tile, each laid out in its own way."""

from __future__ import annotations

from pathlib import Path

from flawmap.data.layouts.listing import Sample, Split
from flawmap.data.layouts.table import rows_of
from flawmap.data.layouts.tree import Tree, alternate, stems
from flawmap.errors import LayoutError


def visa(tree: Tree) -> list[Sample] | None:
    """VisA: Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly; the split csv of the data set where it is."""
    folder = tree.root / "Data" / "Images"
    normal, anomaly = tree.images("Data", "Images", "Normal"), tree.images("Data", "Images", "Anomaly")
    if not normal or not anomaly:
        return None
    split = alternate(normal)
    root = tree.root.resolve()
    for table in (root.parent / "split_csv" / "1cls.csv", root / "1cls.csv", root / "split_csv" / "1cls.csv"):
        if table.is_file():
            tree.used.add(tree.root / table.relative_to(root) if table.is_relative_to(root) else table)
            split = {}
            for number, row in rows_of(table, ("object", "split", "label", "image")):
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
        mask = tree.first(tree.root / "Data" / "Masks" / "Anomaly", stems(path.stem, ""))
        samples.append(Sample(path, split.get(path, "test"), True, "anomaly", mask))
    return samples


def dagm(tree: Tree) -> list[Sample] | None:
    """DAGM 2007: Train/ and Test/ with NNNN.PNG; a defective one has Label/NNNN_label.PNG (a coarse ellipse)."""
    if not (tree.images("Train", "Label") or tree.images("Test", "Label")):
        return None
    samples = []
    splits: tuple[tuple[str, Split], ...] = (("Train", "train"), ("Test", "test"))
    for folder, split in splits:
        for path in tree.images(folder):
            mask = tree.first(tree.root / folder / "Label", stems(path.stem, "_label"))
            samples.append(Sample(path, split, mask is not None, "good" if mask is None else "defect", mask))
    return samples


def magnetic_tile(tree: Tree) -> list[Sample] | None:
    """Magnetic Tile: MT_Free/Imgs/*.jpg, MT_<Defect>/Imgs/*.jpg with a .png mask, black beside a good one."""
    kinds = [name for name in tree.folders() if name.startswith("MT_")]
    if "MT_Free" not in kinds:
        return None
    samples = []
    for name in kinds:
        photos = [path for path in tree.images(name, deep=True) if path.suffix.lower() != ".png"]
        split = alternate(photos)
        kind = name.removeprefix("MT_").lower()
        for path in photos:
            mask = tree.first(path.parent, [path.stem + ".png"])
            if kind == "free":
                samples.append(Sample(path, split[path], False, "good"))
                tree.used.update([mask] if mask else [])
            else:
                samples.append(Sample(path, "test", True, kind, mask))
    return samples
