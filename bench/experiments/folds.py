"""How many new good parts a threshold rejects, by which photos are left out together: features alone, nothing trained.

    python bench/experiments/folds.py CACHE
    python bench/experiments/folds.py CACHE --new

CACHE holds SET-256.npz (names of photos, and which are defective) and SET-256-row3.npy to -row6.npy (feature maps of
EfficientNet-Lite0, good photos first, then test photos). Good photos are compared with a memory bank of the other
folds' patches, as in `fast`; the threshold for 5 % is read off their scores. Rejected are good test photos of each set,
or with --new, of all its good photos, each quarter in the order of capture in turn, while the rest set the threshold.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

from flawmap.measure.threshold import BY, choose_threshold
from flawmap.model.familiarity import SHRINKAGE_OF_MEMORY, Density, Moments, surroundings
from flawmap.train.core_set import core_set
from flawmap.train.familiar import DIRECTIONS, FOLDS
from flawmap.train.folds import CELLS, Partition, by_folder, by_runs, capture_orders, grouped, near_duplicates

SETS = ("bsdata", "elpv_poly", "kolektor", "magnetic_tile", "mtoc", "toy_figures")
BY_FOLDER = ("bsdata", "kolektor")  # whose photos lie in folders, one a place or part
ROWS = (3, 4, 5, 6)
PATCHES = 2000
OVERKILL, ALLOWED = 0.05, 0.15
QUARTERS = 4
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def features_of(cache: Path, name: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Features (photos, C, h, w) of a set as `fast` compares them, and what is known of the photos."""
    rows = [np.load(cache / f"{name}-256-row{row}.npy", mmap_mode="r") for row in ROWS]
    found = []
    for start in range(0, len(rows[0]), 32):
        maps = [torch.from_numpy(np.array(row[start : start + 32], np.float32)) for row in rows]
        means = [nn.functional.avg_pool2d(each, 3, 1, 1, count_include_pad=False) for each in maps]
        height, width = means[0].shape[-2:]
        for number, mean in enumerate(means):
            if mean.shape[-2:] != (height, width):
                size = 2 * mean.shape[-2], 2 * mean.shape[-1]
                larger = nn.functional.interpolate(mean, size=size, mode="bilinear", align_corners=False)
                means[number] = larger[..., :height, :width]
        found.append(surroundings(torch.cat(means, 1)))
    with np.load(cache / f"{name}-256.npz") as stored:
        facts = {key: stored[key] for key in ("good", "test", "defective")}
    return torch.cat(found), facts


def cells(photos: Tensor) -> Tensor:
    """(P, C, h, w) -> (cells, C)."""
    return photos.permute(0, 2, 3, 1).flatten(0, 2)


def scores(photos: Tensor, density: Density) -> list[float]:
    return [float(torch.sigmoid(density(photo[None])).max()) for photo in photos]


def density_of(moments: Sequence[Moments], patches: Sequence[Tensor], shrinkage: float) -> Density:
    together = Moments.of(list(moments))
    density = Density(len(together.total))
    density.fit(together.mean(), together.covariance(), shrinkage)
    if patches:
        density.remember(torch.cat(list(patches)))
    return density


def cross_fitted(good: Tensor, folds: Numbers, new: Sequence[Tensor]) -> tuple[list[float], list[list[float]]]:
    """Scores of good photos by the other folds, and of new photos by all."""
    names = np.unique(folds).tolist()
    moments, patches = {}, {}
    for fold in names:
        moments[fold] = Moments(good.shape[1])
        moments[fold].add(good[torch.from_numpy(folds == fold)])
    usual = density_of(list(moments.values()), [], 1e-3)
    directions = torch.linalg.qr(torch.randn(good.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(0)))[0]
    for fold in names:
        own = cells(good[torch.from_numpy(folds == fold)])
        count = -(-PATCHES * int((folds == fold).sum()) // len(good))
        patches[fold] = own[core_set(usual.white(own) @ directions, count)]
    found = np.empty(len(good))
    for fold in names:
        others = [each for each in names if each != fold]
        chosen = [moments[each] for each in others], [patches[each] for each in others]
        found[folds == fold] = scores(good[torch.from_numpy(folds == fold)], density_of(*chosen, SHRINKAGE_OF_MEMORY))
    everything = density_of(list(moments.values()), list(patches.values()), SHRINKAGE_OF_MEMORY)
    return found.tolist(), [scores(photos, everything) for photos in new]


def partitions(paths: list[Path], good: Tensor, name: str) -> tuple[dict[str, Numbers], Partition]:
    """Folds at random, by order, by likeness and as a training chooses them, and what it chooses."""
    small = nn.functional.adaptive_avg_pool2d(good, CELLS)
    orders = capture_orders(paths)
    alone, alike = np.arange(len(paths)), near_duplicates(small, orders[0])
    blocks = np.empty(len(paths), np.int64)
    blocks[orders[0]] = np.arange(len(paths)) * FOLDS // len(paths)
    chosen = by_folder(paths, FOLDS, 0) if name in BY_FOLDER else by_runs(paths, small, FOLDS, 0)
    ways = {
        "random": grouped([str(each) for each in alone], FOLDS, 0),
        "order of names": blocks,
        "likeness": grouped([str(each) for each in alike], FOLDS, 0),
        "chosen": chosen.folds,
    }
    return ways, chosen


def shares(good: Tensor, folds: Numbers, new: Tensor, defective: Tensor) -> tuple[int, float]:
    """Rejected good photos that are new, and the share of defective ones that escape."""
    found, (others, bad) = cross_fitted(good, folds, [new, defective])
    limit = choose_threshold(found, found, OVERKILL, tail="estimated").score
    return int((np.array(others) > limit).sum()), float((np.array(bad) <= limit).mean())


def by_test_photos(cache: Path, names: Sequence[str]) -> None:
    print("| set | good photos | independent groups | random | order of names | likeness | chosen | at most |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        photos, facts = features_of(cache, name)
        good = photos[: len(facts["good"])]
        test = photos[len(good) :]
        bad = torch.from_numpy(facts["defective"])
        ways, chosen = partitions([Path(path) for path in facts["good"]], good, name)
        found = {way: shares(good, folds, test[~bad], test[bad]) for way, folds in ways.items()}
        told = " | ".join(f"{rejected}, {100 * escape:.0f} %" for rejected, escape in found.values())
        count, most = int((~bad).sum()), int(binom.ppf(0.95, int((~bad).sum()), ALLOWED))
        groups = f"{chosen.count}, by {BY[chosen.by]}"
        print(f"| {name} ({count} good to test) | {len(good)} | {groups} | {told} | {most} |", flush=True)


def by_new_runs(cache: Path, names: Sequence[str]) -> None:
    print("| set | random: rejected | escape | chosen: rejected | escape | independent groups |")
    print("|---|---|---|---|---|---|")
    for name in names:
        photos, facts = features_of(cache, name)
        bad = torch.from_numpy(np.concatenate([np.zeros(len(facts["good"]), np.bool_), facts["defective"]]))
        paths = np.array([Path(path) for path in (*facts["good"], *facts["test"])])[~bad.numpy()]
        good, order = photos[~bad], in_order(name, list(paths), photos[~bad])
        told: dict[str, list[tuple[int, float]]] = {"random": [], "chosen": []}
        groups = []
        for quarter in range(QUARTERS):
            new = np.zeros(len(good), np.bool_)
            new[order[quarter * len(good) // QUARTERS : (quarter + 1) * len(good) // QUARTERS]] = True
            kept = good[torch.from_numpy(~new)]
            ways, chosen = partitions(list(paths[~new]), kept, name)
            groups.append(str(chosen.count))
            for way, found in told.items():
                one = shares(kept, ways[way], good[torch.from_numpy(new)], photos[bad])
                found.append((100 * one[0] // max(int(new.sum()), 1), one[1]))
        cols = []
        for found in told.values():
            cols += [", ".join(str(rejected) for rejected, _ in found) + " %", f"{100 * np.mean(found, 0)[1]:.0f} %"]
        print(f"| {name} | {' | '.join(cols)} | {', '.join(groups)} |", flush=True)


def in_order(name: str, paths: list[Path], good: Tensor) -> Numbers:
    """The order in which photos are new together: of their tiles, their likeness where names say nothing, or names."""
    if name == "magnetic_tile":
        return np.argsort([int(re.findall(r"\d+", path.name)[-1]) for path in paths])
    if name == "mtoc":
        alike = near_duplicates(nn.functional.adaptive_avg_pool2d(good, CELLS), np.arange(len(paths)))
        return np.argsort(alike, kind="stable")
    return capture_orders(paths)[0]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--new", action="store_true", help="quarters of the good photos as new parts")
    chosen = parser.parse_args()
    names = chosen.sets.split(",")
    (by_new_runs if chosen.new else by_test_photos)(chosen.cache, names)


if __name__ == "__main__":
    main()
