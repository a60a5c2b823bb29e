"""A folder of data sets, one a category, as most public ones come: those that can be trained and tested on."""

from __future__ import annotations

from pathlib import Path

from flawmap.data.layouts import LAYOUTS, Listing, read_layout
from flawmap.errors import DataError, LayoutError


def find_categories(root: str | Path, layout: str = "auto") -> tuple[dict[str, Listing], list[str]]:
    """(data sets by name, notes on what is left out): `root` itself where it is one, or each folder in it.

    Each has good images to learn from, and good and defective ones to test on. Raises LayoutError when there is none.
    """
    root = Path(root)
    try:
        whole = read_layout(root, layout)
        reason = _lacking(whole)
        if not reason:
            return {whole.name: whole}, []
        reason = f"{root}: {reason}"
    except LayoutError as problem:
        reason = str(problem)
    if not root.is_dir():
        raise LayoutError(reason)
    found: dict[str, Listing] = {}
    notes = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            listing = read_layout(folder, layout)
            problem_there = _lacking(listing)
        except DataError as problem:  # also a broken image that tells the layout
            problem_there = str(problem)
        if problem_there:
            notes.append(f"{folder.name} is left out: {problem_there}")
        else:
            found[folder.name] = listing
    if not found:
        raise LayoutError(reason)
    return found, notes


def holds_data_sets(folder: Path) -> bool:
    """Whether a folder is laid out as a known data set, well or badly, or holds folders that are."""
    try:
        return read_layout(folder).layout != LAYOUTS[-1]
    except LayoutError as problem:
        unknown = ("which images are good?", "no images in ")
        return not any(words in str(problem) for words in unknown)


def _lacking(listing: Listing) -> str:
    """What a data set lacks to be trained and tested on; empty when nothing."""
    tested = {sample.defective for sample in listing.test}
    wanted = {
        "good images to learn from": bool(listing.train_good),
        "good images to test on": False in tested,
        "defective images to test on": True in tested,
    }
    missing = [name for name, there in wanted.items() if not there]
    return f"no {' and no '.join(missing)}" if missing else ""
