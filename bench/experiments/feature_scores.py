"""Feature scores alone, nothing trained: a quick proxy for choosing scales, rows of blocks and neighbourhoods.

    python bench/experiments/feature_scores.py SETS_FOLDER CACHE [--sets kolektor,mtoc] [--sources low,high]

EfficientNet-Lite0's feature maps of every photo of a set are kept in the folder CACHE at one size (some GB). Of up to
300 good photos four fifths fill a memory bank (coreset of 2000 patches, principal components, whitened); a photo's
score is the largest logarithm of the mean squared distance from it, its map all of them. Prints image AUROC, pixel AP.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.bundle import load_imagenet
from flawmap.data.images import read_image, read_shape, resize_image
from flawmap.data.layouts import read_layout
from flawmap.data.masks import MaskReader, at_cells
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.familiarity import Density, Moments
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.train.core_set import core_set

SETS = ("toy_figures", "kolektor", "mtoc", "elpv_poly", "bsdata", "magnetic_tile")
PHOTOS, BANK, CANDIDATES, DIRECTIONS = 300, 2000, 100_000, 64


class Source(NamedTuple):
    """A score source: shorter side of the photos, rows of blocks, the one whose grid is used, cells of each row's own
    mean, cells of the mean on the grid, principal components (0: all), whether distances are from a memory bank."""

    side: int
    rows: tuple[int, ...]
    grid: int
    own_mean: int = 3
    around: int = 1
    components: int = 0
    bank: bool = True


SOURCES = {
    "coarse, 256": Source(256, (3, 4, 5, 6), 3, 3, 5),
    "low, all components": Source(512, (3, 4, 5, 6), 3, 3, 3),
    "low": Source(512, (3, 4, 5, 6), 3, 3, 3, 256),
    "low, rows 3 and 4": Source(512, (3, 4), 3, 3, 3),
    "low, rows 3 to 5": Source(512, (3, 4, 5), 3, 3, 3),
    "low, means of 5": Source(512, (3, 4, 5, 6), 3, 3, 5),
    "low, Gaussian": Source(512, (3, 4, 5, 6), 3, 3, 3, bank=False),
    "high, rows 2 to 4, single cells": Source(512, (2, 3, 4), 2, 1, 1),
    "high, the same, 96 components": Source(512, (2, 3, 4), 2, 1, 1, 96),
    "high, rows 2 and 3, single cells": Source(512, (2, 3), 2, 1, 1),
    "high, rows 2 to 4": Source(512, (2, 3, 4), 2, 1, 3),
    "high, rows 2 to 4, means of 5": Source(512, (2, 3, 4), 2, 1, 5),
    "high": Source(512, (2, 3, 4, 5), 2, 1, 3, 256),
    "high, rows 2 to 6": Source(512, (2, 3, 4, 5, 6), 2, 1, 3, 256),
}


class Photos(NamedTuple):
    """A set at one size: feature maps by row, (P, C, h, w) float16 on the disk; good photos first, then test parts."""

    rows: dict[int, Any]
    good: int
    defective: np.ndarray[Any, Any]
    masks: np.ndarray[Any, Any]
    masked: np.ndarray[Any, Any]


def photos_of(folder: Path, cache: Path, name: str, side: int) -> Photos:
    """The set's feature maps, from the cache where they are there."""
    note = cache / f"{name}-{side}.npz"
    if not note.exists():
        _extract(folder / name, cache, name, side)
    facts = np.load(note)
    rows = {row: np.load(cache / f"{name}-{side}-row{row}.npy", mmap_mode="c") for row in range(2, 7)}
    return Photos(rows, int(facts["good"]), facts["defective"], facts["masks"], facts["masked"])


@torch.no_grad()
def _extract(folder: Path, cache: Path, name: str, side: int) -> None:
    listing = read_layout(folder)
    good = sorted(sample.image for sample in listing.train_good)
    good = good[:: -(-len(good) // PHOTOS)]
    test = [sample for sample in listing.test if sample.defective is not None]
    height, width = _size(good, side)
    model = ImageNetFeatures().eval()
    load_imagenet(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[int, list[Any]] = {row: [] for row in range(2, 7)}
    for path in [*good, *(sample.image for sample in test)]:
        image = resize_image(read_image(path), height, width, "area")
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).contiguous(memory_format=torch.channels_last)
        for row, block in enumerate(model.blocks(pixels)):
            if row in found:
                found[row].append(block[0].half().contiguous().numpy())
    blank = np.zeros((height, width), np.bool_)
    masks = [
        at_cells(MaskReader().read(sample.masks, read_shape(sample.image)), height, width) if sample.masks else blank
        for sample in test
    ]
    cache.mkdir(parents=True, exist_ok=True)
    for row, values in found.items():
        np.save(cache / f"{name}-{side}-row{row}.npy", np.stack(values))
    np.savez_compressed(
        cache / f"{name}-{side}.npz",
        good=len(good),
        defective=np.array([bool(sample.defective) for sample in test]),
        masks=np.stack(masks),
        masked=np.array([not sample.defective or sample.mask is not None for sample in test]),
    )


def _size(paths: list[Path], side: int) -> tuple[int, int]:
    shapes = [read_image(path).shape for path in paths[:: -(-len(paths) // 32)]]
    ratio = statistics.median(shape[0] / shape[1] for shape in shapes)
    own = statistics.median(min(shape[:2]) for shape in shapes)
    short = min(side, max(256, 16 * round(own / 16)))
    long = 16 * round(short * min(max(ratio, 1 / ratio), 4) / 16)
    return (long, short) if ratio > 1 else (short, long)


def features(photos: Photos, source: Source, index: int) -> Tensor:
    """(C, h, w) of one photo, without the outermost cells."""
    size = photos.rows[source.grid].shape[-2:]
    parts = []
    for row in source.rows:
        cells = torch.from_numpy(photos.rows[row][index]).float()[None]
        if source.own_mean > 1:
            cells = nn.functional.avg_pool2d(cells, source.own_mean, 1, source.own_mean // 2, count_include_pad=False)
        if cells.shape[-2:] != size:
            cells = nn.functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)
        parts.append(cells)
    inner = torch.cat(parts, 1)[..., 1:-1, 1:-1]
    return (nn.functional.avg_pool2d(inner, source.around, 1) if source.around > 1 else inner)[0]


class Fitted(NamedTuple):
    """What good photos are like: `density` with its memory bank, the photo (N,) that each of its patches is from, and
    the numbers of the good photos it learnt from and of those left out."""

    density: Density
    owners: Tensor
    learnt: list[int]
    left: list[int]


@torch.no_grad()
def fitted(photos: Photos, source: Source) -> Fitted:
    """Mean, covariance and memory bank of four fifths of the good photos."""
    order = torch.randperm(photos.good, generator=torch.Generator().manual_seed(0)).tolist()
    left_out = max(photos.good // 5, 6)
    learnt, left = sorted(order[left_out:]), sorted(order[:left_out])
    first = features(photos, source, 0)
    moments = Moments(len(first))
    for index in learnt:
        moments.add(features(photos, source, index)[None])
    density = Density(len(first), source.components)
    density.fit(moments.mean(), moments.covariance(), 0.1 if source.bank else 1e-3)
    if not source.bank:
        return Fitted(density, torch.zeros(0, dtype=torch.int64), learnt, left)
    room = max(CANDIDATES // len(learnt), 16)
    taken = [features(photos, source, index).flatten(1).t() for index in learnt]
    some = [one[:: max(-(-len(one) // room), 1)] for one in taken]
    cells, owners = torch.cat(some), torch.tensor(learnt).repeat_interleave(torch.tensor([len(one) for one in some]))
    white = density.white(cells)
    generator = torch.Generator().manual_seed(42)
    drawn = torch.randn(white.shape[1], min(DIRECTIONS, white.shape[1]), generator=generator)
    chosen = core_set(white @ torch.linalg.qr(drawn)[0], BANK)
    density.remember(cells[chosen])
    return Fitted(density, owners[chosen], learnt, left)


@torch.no_grad()
def measure(photos: Photos, source: Source) -> tuple[float, float]:
    """(image AUROC, pixel AP on a grid of a quarter of the photo's size; NaN without masks)."""
    density = fitted(photos, source).density
    numbers = range(photos.good, photos.good + len(photos.defective))
    maps = torch.cat([density(features(photos, source, index)[None]) for index in numbers])
    return (
        image_auroc(photos.defective, maps.flatten(1).amax(1).double().numpy()),
        pixel_ap(photos, whole(photos, maps, 1 + source.around // 2)),
    )


def whole(photos: Photos, maps: Tensor, cut: int) -> Tensor:
    """Maps (P, 1, h, w) without `cut` cells along the borders -> (P, H / 4, W / 4) of the photos' size."""
    size = [side // 4 for side in photos.masks.shape[-2:]]
    padded = nn.functional.pad(maps, (cut,) * 4, mode="replicate")
    return nn.functional.interpolate(padded, size=size, mode="bilinear", align_corners=False)[:, 0]


def pixel_ap(photos: Photos, maps: Tensor) -> float:
    """Average precision of maps (P, H / 4, W / 4) of the test photos, over those whose mask is known."""
    if not photos.masks.any():
        return float("nan")
    size = maps.shape[-2:]
    truth = np.stack([at_cells(mask, *size) for mask in photos.masks])
    known = photos.masked
    return image_ap(truth[known].reshape(-1), maps.numpy()[known].reshape(-1).astype(np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a folder for each set")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--sources", default=";".join(SOURCES), help="names with semicolons between them")
    chosen = parser.parse_args()
    names = chosen.sets.split(",")
    print("| source | " + " | ".join(names) + " | mean |\n|" + "---|" * (len(names) + 2))
    for label in chosen.sources.split(";"):
        began, source = time.monotonic(), SOURCES[label]
        found = [measure(photos_of(chosen.folder, chosen.cache, name, source.side), source) for name in names]
        cells = [f"{auroc:.3f}" + ("" if np.isnan(ap) else f", {ap:.3f}") for auroc, ap in found]
        mean = f"{np.mean([auroc for auroc, _ in found]):.3f}, {np.nanmean([ap for _, ap in found]):.3f}"
        print(f"| {label} | {' | '.join(cells)} | {mean} |  ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
