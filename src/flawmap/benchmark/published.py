"""Published figures to stand beside ours: one data file, each number with its source; what is not known is blank."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from flawmap.data.layouts import Listing

METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
}
MVTEC = frozenset(
    (
        "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
        "toothbrush", "transistor", "wood", "zipper",
    )
)  # fmt: skip
TILES = frozenset({"MT_Free", "MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven"})
BY_LAYOUT = {"visa": "VisA", "btad": "BTAD", "kolektor": "KolektorSDD", "kolektor2": "KolektorSDD2"}


@dataclass(frozen=True)
class Published:
    """What one publication reports of a method: metrics as fractions, by the names in METRICS."""

    data: str
    category: str
    method: str
    source: str
    url: str
    by: str
    figures: Mapping[str, float]


def data_set_of(categories: Mapping[str, Listing]) -> str:
    """Name of the public data set that categories are of; empty when it is none that is known."""
    names = {_data_set(name, listing) for name, listing in categories.items()}
    return names.pop() if len(names) == 1 else ""


def _data_set(name: str, listing: Listing) -> str:
    if listing.layout == "mvtec" and name in MVTEC:
        return "MVTec AD"
    folders = _folders(listing)
    if "MT_Free" in folders and folders <= TILES:  # also with a split of one's own, as a csv
        return "Magnetic Tile"
    if listing.layout == "csv" and folders and all(re.fullmatch(r"kos\d+", folder) for folder in folders):
        return "KolektorSDD"
    return BY_LAYOUT.get(listing.layout, "")


def _folders(listing: Listing) -> set[str]:
    """Names of the folders in a data set's own that hold its images."""
    paths = (sample.image for sample in listing.samples if sample.image.is_relative_to(listing.root))
    inner = (path.relative_to(listing.root).parts for path in paths)
    return {parts[0] for parts in inner if len(parts) > 1}


def published(data: str) -> list[Published]:
    """All that is known of a data set, means first, in the order of the file."""
    text = (resources.files("flawmap.benchmark") / "published.toml").read_text(encoding="utf-8")
    found = [
        Published(row["data"], category, row["method"], row["source"], row["url"], row["by"], figures)
        for row in tomllib.loads(text)["source"]
        if row["data"] == data
        for category, figures in row["figures"].items()
    ]
    return sorted(found, key=lambda row: row.category != "mean")


def markdown(rows: Sequence[Published]) -> str:
    """The table as Markdown; blank where a publication says nothing."""
    heads = ["category", "method", *METRICS.values(), "source"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        figures = (f"{row.figures[name]:.3f}" if name in row.figures else "" for name in METRICS)
        by = "" if row.by == "authors" else f", measured by {row.by}"
        lines.append(f"| {row.category} | {row.method} | {' | '.join(figures)} | {row.source}{by} |")
    return "\n".join(lines) + "\n"
