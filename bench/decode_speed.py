"""Time of decoding photos, this code against that of another revision, interleaved in one run.

    python bench/decode_speed.py --against REVISION [PHOTO …]

Without photos, drawn ones are saved in each format. Of each file the quotient of the medians is shown, with the
range of the quotient over the rounds' thirds: the target is met when the quotient stays below 1.1.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from flawmap.data import images
from flawmap.data.opencv import cv2

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1.1


def module_of(revision: str, folder: Path) -> ModuleType:
    """`data/images.py` of a revision, which needs no other module of that revision."""
    path = folder / "images_before.py"
    source = subprocess.run(
        ["git", "show", f"{revision}:src/flawmap/data/images.py"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    path.write_bytes(source)
    spec = importlib.util.spec_from_file_location("images_before", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["images_before"] = module
    spec.loader.exec_module(module)
    return module


def drawn(height: int = 1200, width: int = 1600) -> np.ndarray[Any, Any]:
    """A surface with texture and noise, (H, W, 3) uint8: it compresses as photos do."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 216, (height // 20, width // 20, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def files() -> dict[str, bytes]:
    """The drawn surface in each format."""
    colour = Image.fromarray(drawn())
    deep = drawn()[:, :, 0].astype(np.uint16) * 257
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("PNG colour", colour, "PNG", {}),
        ("PNG grey", colour.convert("L"), "PNG", {}),
        ("PNG grey, 16 bits", Image.fromarray(deep), "PNG", {}),
        ("JPEG colour", colour, "JPEG", {"quality": 90}),
        ("JPEG grey", colour.convert("L"), "JPEG", {"quality": 90}),
        ("JPEG progressive", colour, "JPEG", {"quality": 90, "progressive": True}),
        ("TIFF colour", colour, "TIFF", {}),
        ("TIFF grey", colour.convert("L"), "TIFF", {}),
        ("TIFF grey, 16 bits", Image.fromarray(deep), "TIFF", {}),
        ("TIFF colour, LZW", colour, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF grey, LZW", colour.convert("L"), "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF colour, Deflate", colour, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF grey, Deflate", colour.convert("L"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF colour, PackBits", colour, "TIFF", {"compression": "packbits"}),
        ("TIFF colour, JPEG", colour, "TIFF", {"compression": "jpeg", "quality": 90}),
        ("BMP colour", colour, "BMP", {}),
        ("WebP colour", colour, "WEBP", {"quality": 90}),
    ]
    found = {}
    for name, image, form, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found[name] = buffer.getvalue()
    wide = drawn().astype(np.uint16) * 257
    for name, packing in (("raw", 1), ("LZW", 5), ("Deflate", 8)):  # a strip for each row
        options = [cv2.IMWRITE_TIFF_COMPRESSION, packing]
        found[f"TIFF 16-bit colour, {name}"] = cv2.imencode(".tif", wide, options)[1].tobytes()
    found["PNG colour, 16 bits"] = cv2.imencode(".png", wide)[1].tobytes()
    return found


def measure(data: bytes, ways: list[Callable[[bytes, str], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each way, in turn, round by round."""
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for place in range(len(ways)) if number % 2 else reversed(range(len(ways))):
            start = time.perf_counter()
            ways[place](data, "photo")
            if number:  # the first round warms up
                taken[place].append(time.perf_counter() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="REVISION")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="Kinds of drawn files whose name holds this.")
    parser.add_argument("photos", nargs="*", type=Path)
    given = parser.parse_args()
    chosen = {str(path): path.read_bytes() for path in given.photos} or {
        name: data for name, data in files().items() if given.only in name
    }
    with tempfile.TemporaryDirectory() as folder:
        before = module_of(given.against, Path(folder))
        print(f"{'file':28} {'before':>9} {'now':>9} {'now/before':>11}")
        for name, data in chosen.items():
            then, now = measure(data, [before.decode_pixels, images.decode_pixels], given.rounds)
            quotient = statistics.median(now) / statistics.median(then)
            thirds = [statistics.median(now[i::3]) / statistics.median(then[i::3]) for i in range(3)]
            print(
                f"{name[-28:]:28} {statistics.median(then) * 1e3:6.1f} ms {statistics.median(now) * 1e3:6.1f} ms "
                f"{quotient:6.2f} ({min(thirds):.2f}–{max(thirds):.2f}){'' if quotient <= TARGET else '  over'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
