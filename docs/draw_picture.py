"""Draws docs/picture.png, the README's picture, from what `make demo` left in demo/: one row a defective part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flawmap.data.images import colour_map, resize_image, to_uint8, write_image
from flawmap.deploy.inspector import load

DEMO, OUT = Path("demo"), Path(__file__).parent / "picture.png"
SIDE, GAP = 256, 6


def main() -> None:
    """Three kinds of defect, each as: the part, as a good part, as it is, the map."""
    inspector = load(DEMO / "part.bundle")
    kinds = sorted(path for path in (DEMO / "parts" / "test").iterdir() if path.name != "good")
    rows = []
    for kind in kinds[:3]:
        found = inspector.inspect(min(kind.glob("*.png")))
        drawings = [to_uint8(image) for image in (found.input_image, found.object_image, found.general_image)]
        pictures = [*drawings, colour_map(found.network_map)]
        large = [to_uint8(resize_image(p.astype(np.float32) / 255, SIDE, SIDE)) for p in pictures]
        gap = np.full((SIDE, GAP, 3), 255, np.uint8)
        row = [part for picture in large for part in (picture, gap)][:-1]
        rows += [np.hstack(row), np.full((GAP, 4 * SIDE + 3 * GAP, 3), 255, np.uint8)]
    write_image(OUT, np.vstack(rows[:-1]))


if __name__ == "__main__":
    main()
