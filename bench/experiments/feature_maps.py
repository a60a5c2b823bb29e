"""Feature scores alone, nothing trained: a quick proxy for choosing scales, layers and fusion on many data sets.

    python bench/experiments/feature_maps.py extract SETS_FOLDER CACHE --sets kolektor,mtoc --side 512

keeps EfficientNet-Lite0's feature maps of every photo of a set at one size; the other scripts of this folder read them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from flawmap.bundle import load_imagenet
from flawmap.data.images import read_image, read_mask, resize_image, resize_mask
from flawmap.data.layouts import read_layout
from flawmap.model.imagenet import ImageNetFeatures

SETS = ("toy_figures", "kolektor", "mtoc", "elpv_poly", "bsdata", "magnetic_tile")


def network() -> ImageNetFeatures:
    model = ImageNetFeatures()
    load_imagenet(model)
    return model.eval().to(memory_format=torch.channels_last)


def sides(paths: list[Path], short: int) -> tuple[int, int]:
    shapes = [read_image(path).shape for path in paths[:: -(-len(paths) // 32)]]
    ratio = statistics.median(shape[0] / shape[1] for shape in shapes)
    own = statistics.median(min(shape[:2]) for shape in shapes)
    short = min(short, max(256, 16 * round(own / 16)))
    long = 16 * round(short * min(max(ratio, 1 / ratio), 4) / 16)
    return (long, short) if ratio > 1 else (short, long)


@torch.no_grad()
def extract(folder: Path, name: str, short: int, out: Path, most: int) -> None:
    listing = read_layout(folder / name)
    good = sorted(sample.image for sample in listing.train_good)
    good = good[:: -(-len(good) // most)] if most else good
    test = [sample for sample in listing.test if sample.defective is not None]
    height, width = sides(good, short)
    model = network()
    store: dict[str, list[np.ndarray]] = {}
    for path in [*good, *(sample.image for sample in test)]:
        image = resize_image(read_image(path), height, width, "area")
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).contiguous(memory_format=torch.channels_last)
        for number, row in enumerate(model.blocks(x)):
            if number >= 1:
                store.setdefault(f"row{number}", []).append(row[0].half().contiguous().numpy())
        store.setdefault("photo", []).append((image[::2, ::2].transpose(2, 0, 1) * 255).astype(np.uint8))
    masks = []
    for sample in test:
        if not sample.defective:
            masks.append(np.zeros((height, width), np.bool_))
        elif sample.mask is None:
            masks.append(None)
        else:
            masks.append(resize_mask(read_mask(sample.mask), height, width))
    out.mkdir(parents=True, exist_ok=True)
    for key, values in store.items():
        np.save(out / f"{name}-{short}-{key}.npy", np.stack(values))
    known = [mask is not None for mask in masks]
    np.savez_compressed(
        out / f"{name}-{short}.npz",
        good=np.array([str(path.relative_to(folder)) for path in good]),
        test=np.array([str(sample.image.relative_to(folder)) for sample in test]),
        defective=np.array([bool(sample.defective) for sample in test]),
        known=np.array(known),
        masks=np.stack([mask if mask is not None else np.zeros((height, width), np.bool_) for mask in masks]),
        size=np.array([height, width]),
    )
    print(name, short, (height, width), len(good), len(test), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extract"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--most", type=int, default=300)
    chosen = parser.parse_args()
    for name in chosen.sets.split(","):
        if not (chosen.cache / f"{name}-{chosen.side}.npz").exists():
            extract(chosen.folder, name, chosen.side, chosen.cache, chosen.most)


if __name__ == "__main__":
    main()
