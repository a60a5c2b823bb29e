"""Are seams visible? A bundle's map of large images in tiles: steps across tile borders, and elsewhere.

    python bench/seams.py BUNDLE IMAGE... [--rows 512] [--columns 512]

Images are cut at the top left to --rows and --columns, where tiles without an overlap abut if these are multiples of
the tile's sides. A step is the difference of the map between neighbouring rows, in [0, 1]; the second figure is how far
the map moves on average when the grid of tiles does, by a quarter of a tile.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.images import read_pixels
from flawmap.data.tiles import axis_starts
from flawmap.deploy.inspector import Inspector

OVERLAPS = (0.0, 0.25, 0.5)


def tiling(bundle: Bundle, overlap: float) -> Inspector:
    """The bundle with another policy; its weights stay."""
    image = bundle.recipe.image.model_copy(update={"policy": "tile", "overlap": overlap})
    return Inspector(dataclasses.replace(bundle, recipe=bundle.recipe.model_copy(update={"image": image})), "cpu")


def measure(inspector: Inspector, pixels: np.ndarray) -> tuple[float, float, float]:
    """Mean step across tile borders, mean step elsewhere, mean change of the map when the grid moves."""
    settings = inspector.bundle.recipe.image
    map_ = inspector.inspect(pixels).map
    steps = np.abs(np.diff(map_, axis=0))  # row i: between rows i and i + 1
    starts = axis_starts(len(map_), settings.height, settings.overlap)
    borders = [start - 1 for start in starts[1:]] + [start + settings.height - 1 for start in starts[:-1]]
    at = np.isin(np.arange(len(steps)), borders)
    moved = settings.height // 4
    other = inspector.inspect(np.ascontiguousarray(pixels[moved:])).map
    return float(steps[at].mean()), float(steps[~at].mean()), float(np.abs(map_[moved:] - other).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=512)
    chosen = parser.parse_args()
    bundle = load_bundle(chosen.bundle)
    print("overlap  at borders  elsewhere  moved grid")
    for overlap in OVERLAPS:
        inspector = tiling(bundle, overlap)
        found = [measure(inspector, read_pixels(path)[: chosen.rows, : chosen.columns]) for path in chosen.images]
        at, elsewhere, moved = np.mean(found, axis=0)
        print(f"{overlap:7.2f}  {at:10.4f}  {elsewhere:9.4f}  {moved:10.4f}")


if __name__ == "__main__":
    main()
