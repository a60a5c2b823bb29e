"""A csv that lists images: image,split,label,mask."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from flawmap.data.layouts.listing import Sample, Split
from flawmap.data.layouts.names import is_good, may_be_good
from flawmap.data.layouts.tree import Tree
from flawmap.errors import LayoutError, first_line

COLUMNS = ("image", "split", "label")
# What may mean either, or nothing: a wrong guess would let defects be learnt from, or good parts be missed.
DOUBTFUL = frozenset(
    {"none", "null", "nan", "na", "n/a", "unknown", "?", "-", "-1", "true", "false", "yes", "no", "y", "n"}
    | {"positive", "negative", "pos", "neg", "background", "unlabeled", "unlabelled", "unsure", "maybe", "tbd"}
)


def table(tree: Tree) -> list[Sample] | None:
    """split.csv with the columns image,split,label,mask, paths relative to the folder."""
    file = tree.root / "split.csv"
    if file not in tree.present:
        return None
    return read_table(file)


def read_table(table: Path) -> list[Sample]:
    """Samples of a csv `image,split,label,mask`; a label that says good means good, empty means unknown.

    Parted by commas, semicolons or tabs; capitals do not matter. Raises LayoutError, naming the row, for a missing
    column or file, a split other than train and test, a label in doubt, or an image listed twice.
    """
    samples = []
    rows: dict[str, int] = {}
    kinds: dict[str, str] = {}
    listed = rows_of(table, COLUMNS)
    digits = {row["label"].strip() for _, row in listed} - {""}
    if "0" in digits and len(digits) > 2 and all(label.isdigit() for label in digits):
        raise LayoutError(
            f"{table}: the labels {', '.join(sorted(digits, key=int)[:5])} are classes, and 0 may be a kind of defect; "
            "write good for good parts"
        )
    for number, row in listed:
        image, mask = _file(table, row["image"]), (row.get("mask") or "").strip()
        label, given = row["label"].strip(), row["split"].strip().lower()
        if given not in ("train", "test"):
            raise LayoutError(f"{table} row {number}: split {row['split']!r}; expected train or test")
        if label.lower() in DOUBTFUL or may_be_good(label):
            raise LayoutError(
                f"{table} row {number}: is a part labelled {label!r} good? write good, the kind of its defect, or "
                "nothing where it is not known"
            )
        if rows.setdefault(os.path.realpath(image), number) != number:
            first = rows[os.path.realpath(image)]
            raise LayoutError(f"{table} row {number}: {row['image']} is in row {first} already; keep one of them")
        for path in (image, *([_file(table, mask)] if mask else [])):
            if not path.is_file():
                raise LayoutError(f"{table} row {number}: there is no file {path}; correct the row or add the file")
        good = is_good(label)
        defective = None if not label else not good
        kind = "good" if good else kinds.setdefault(label.lower(), label) or "unlabelled"
        split: Split = "train" if given == "train" else "test"
        samples.append(Sample(image, split, defective, kind, _file(table, mask) if mask and not good else None))
    if not samples:
        raise LayoutError(f"{table} lists no images; add a row for each")
    return samples


def _file(table: Path, name: str) -> Path:
    """A file that a row names, from the folder of the csv; with the backslashes of Windows too."""
    path = table.parent / name.strip()
    try:
        if "\\" in name and not path.exists():
            path = table.parent / name.strip().replace("\\", "/")
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # which is said with the row's number
    except (OSError, ValueError) as problem:  # too long, a loop of links, no permission; a NUL
        reason = first_line(problem)
        raise LayoutError(f"{table}: {name.strip()[:100]!r} cannot be a file here ({reason}); correct it") from problem
    return path


def rows_of(table: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows by column, its name in lower case, each with its line in the file. Raises LayoutError."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            parted = max(",;\t", key=head.count)  # the comma where there is none of them
            reader = csv.DictReader(file, delimiter=parted)
            names = [name.strip().lower() for name in reader.fieldnames or []]
            missing = [name for name in columns if name not in names]
            if missing:
                raise LayoutError(f"{table} has no column {', '.join(missing)}; expected {','.join(columns)}")
            reader.fieldnames = names
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise LayoutError(f"{table} cannot be read as a UTF-8 csv ({first_line(problem)}); save it again") from problem
    for number, row in rows:
        if any(row[name] is None for name in columns):
            raise LayoutError(f"{table} row {number} has too few columns; expected {','.join(columns)}")
    return rows
