"""Folds of a cross-fit by runs: photos of one sheet, one tile or one minute are left out together.

In random folds a photo is compared with its siblings. It scores lower than the next part will, and the threshold
rejects far more good parts than asked for. So whole clusters are left out (blocked cross-validation: Roberts et al.
2017). Siblings lie in one folder, follow each other in the order of capture, or look alike.

An *independent group* counts as one part, day or batch: a folder; a stretch of the order of capture that is as long as
photos there resemble each other; a cluster of near-duplicates; a photo without siblings. Only groups count in what a
threshold promises: 90 photos of 6 sheets are six draws from what sheets may be (measure/threshold.py). *Folds* are
unions of groups.

They are left out for the scores that set the threshold, not where score sources are calibrated (train/familiar.py): odd
runs, left out whole, would decide how much a source counts (docs/results/thresholds.md).

Axes: P photos, C channels, h, w cells, D directions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.measure.evidence import Numbers
from flawmap.train.loop import seeded

Array = np.ndarray[Any, np.dtype[np.float32]]
Scores = np.ndarray[Any, np.dtype[np.float64]]
By = Literal["folder", "order", "near-duplicates"]

CELLS = 6  # along a side of the grid that photos are compared on, fewer for many photos
PAIRS = 5_000_000  # of a cell and a photo, at most about
WHITENED = 0.5, 1.0  # powers of the deviations that features are divided by: partly, and as in a memory bank
DIRECTIONS = 32  # of features, in which cells are compared
LOOK = 3, 64  # cells along a side and directions, in which whole photos are compared
PER_DIRECTION = 4  # photos that there must be for each of these
CHANCE = 0.01  # of a photo, if all were independent, to have a neighbour that is taken for a near-duplicate
SHUFFLES = 12  # random orders that an order of capture is compared with
CERTAIN = 4.0  # standard deviations of these, beyond which an order matters
TOP = 0.25  # share of the largest scores whose mean is compared
WIDER = 1.2  # from one window that is left out to the next
WIDEST = 0.25  # share of the photos to either side
FEWEST = 16  # photos in which an order can be seen to matter
LARGEST = 0.25  # share of the photos in one cluster; a larger one is cut along the order of capture


@dataclass(frozen=True)
class Partition:
    """Independent groups of P photos and the folds made of them, (P,) int each; `by`: how siblings were found."""

    groups: Numbers
    folds: Numbers
    by: By

    @property
    def count(self) -> int:
        """The number of independent groups."""
        return len(np.unique(self.groups))

    def of_first(self, photos: int) -> Partition:
        """The partition of the first so many photos."""
        return Partition(self.groups[:photos], self.folds[:photos], self.by)

    def facts(self) -> dict[str, Any]:
        """What a bundle keeps of it."""
        return {"count": self.count, "by": self.by}


def grouped(units: Sequence[str], count: int, seed: int) -> Numbers:
    """The group of each of P photos, (P,) int: `count` groups of about as many photos, those of one unit together."""
    sizes = Counter(units)
    names = sorted(sizes)
    filled = np.zeros(max(min(count, len(names)), 1), np.int64)
    group = {}
    for index in torch.randperm(len(names), generator=seeded(seed, 41)).tolist():
        group[names[index]] = int(filled.argmin())
        filled[group[names[index]]] += sizes[names[index]]
    return np.array([group[unit] for unit in units], np.int64)


def by_folder(paths: Sequence[Path], count: int, seed: int) -> Partition:
    """Each folder a group; `count` folds of whole folders."""
    units = [str(path.parent) for path in paths]
    return Partition(np.unique(units, return_inverse=True)[1].astype(np.int64), grouped(units, count, seed), "folder")


def by_runs(
    paths: Sequence[Path], features: Tensor, count: int, seed: int, times: Sequence[str] | None = None
) -> Partition:
    """Partition photos that lie in one folder, in up to `count` folds, so that photos left out score highest.

    features: (P, C, h, w), a coarse grid of each photo's features. times: when each was taken, where that is known.

    Two partitions compete: clusters of near-duplicates (`near_duplicates`), and stretches of an order of capture, of
    each that matters (`independent`). Scores are those of a small memory bank: the distance of a photo's farthest cell
    from the nearest one in the other folds. The mean of the largest quarter decides, as thresholds are large scores.

    Groups are counted in whitened directions, in which a memory bank compares patches, if the order matters in these.
    Few groups that differ in light or colour alone do not show there, as all photos took part in the whitening; in a
    cross-fit, which whitens without the photos left out, they do. Partly whitened directions show them.
    """
    profiles, orders = [nearest(features, share) for share in WHITENED], capture_orders(paths, times)
    clusters = near_duplicates(features, orders[0])
    orders = orders if len(paths) >= FEWEST else []
    alike = grouped([str(each) for each in clusters], count, seed)
    best, highest = Partition(clusters, alike, "near-duplicates"), _largest(left_out(profiles[0], alike))
    generator = np.random.default_rng([seed, 43])
    windows = _windows(len(paths))
    random = [generator.permutation(len(paths)) for _ in range(SHUFFLES)]
    shuffled = [np.array([in_windows(profile, order, windows) for order in random]) for profile in profiles]
    for order in orders:
        in_each = (
            independent(in_windows(profile, order, windows), reference, windows, len(paths))
            for profile, reference in zip(profiles, shuffled, strict=True)
        )
        partly, groups = in_each
        if partly == len(paths):
            continue
        groups = groups if groups < len(paths) else partly
        folds = _blocks(order, _number_of_folds(groups, count), groups)
        height = _largest(left_out(profiles[0], folds))
        if height > highest:
            best, highest = Partition(_blocks(order, groups), folds, "order"), height
    return best


def _number_of_folds(groups: int, count: int) -> int:
    """The number of folds, `count` at most.

    Each has two groups or more, as siblings across a fold's edge stay in; but where there are so many groups there are
    half of `count` folds at least, or too little is left to compare photos with.
    """
    return min(count, max(groups // 2, min(count // 2, groups)))


def capture_orders(paths: Sequence[Path], times: Sequence[str] | None = None) -> list[Numbers]:
    """List the orders in which photos may have been taken, each (P,) numbers of photos; the likeliest first.

    By `times`, where each photo has one; by folder and name, with numbers in names compared as numbers; and where names
    differ in their numbers alone, by each of these numbers first (`exp3_num_855.jpg` is of the same tile as
    `exp1_num_824.jpg`). The dates of the files are not used: copying changes them.
    """
    names = [(_natural(str(path.parent)), _natural(path.name)) for path in paths]
    keys: list[list[Any]] = [[(time, *name) for time, name in zip(times, names, strict=True)]] if times else []
    keys.append(list(names))
    texts = {tuple(part for part, number in name if not number) for _, name in names}
    if len(texts) == 1:
        fields = [[part for part, number in name if number] for _, name in names]
        varying = [number for number in range(len(fields[0])) if len({field[number] for field in fields}) > 1]
        keys += [
            [(field[number], name) for field, (_, name) in zip(fields, names, strict=True)]
            for number in varying
            if len(varying) > 1
        ]
    orders = [tuple(sorted(range(len(paths)), key=key.__getitem__)) for key in keys]
    return [np.array(order, np.int64) for order in dict.fromkeys(orders)]


def _natural(name: str) -> tuple[tuple[Any, bool], ...]:
    """Split a name into its texts and numbers in turn, each with whether it is a number; texts at even places."""
    return tuple(
        (int(part), True) if number % 2 else (part, False) for number, part in enumerate(re.split(r"(\d+)", name))
    )


def near_duplicates(features: Tensor, order: Numbers) -> Numbers:
    """Cluster photos that are nearer to each other than independent ones come by chance: (P,); most have one photo.

    features: (P, C, h, w). Photos are compared by means over LOOK[0]² cells, whitened: in D directions that vary alike,
    of which there are few where photos are few. Were they independent and normal, half the squared distance of two
    would be chi-squared of D degrees of freedom; photos are near-duplicates where it is so small that only one photo in
    1 / CHANCE would have such a neighbour among all others. Clusters join by their mean distance, as chains of nearest
    neighbours would grow through whole data sets. One with more than LARGEST of all photos is cut along `order`.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.stats import chi2

    count = len(features)
    look = nn.functional.adaptive_avg_pool2d(features.float(), LOOK[0]).flatten(1).double()
    directions = min(LOOK[1], count // PER_DIRECTION)
    if directions == 0:
        return np.arange(count)
    u, spread, _ = torch.linalg.svd(look - look.mean(0), full_matrices=False)
    kept = spread[:directions] > 1e-6 * spread[0]
    if not bool(kept.any()):
        return np.zeros(count, np.int64)  # all photos are the same
    white = u[:, :directions][:, kept] * count**0.5
    away = torch.pdist(white).clamp_min(0).numpy()
    limit = (2 * chi2.ppf(CHANCE / count, white.shape[1])) ** 0.5
    clusters: Numbers = fcluster(linkage(away, "average"), limit, "distance").astype(np.int64)
    return _cut(clusters, order, max(int(LARGEST * count), 1))


def _cut(clusters: Numbers, order: Numbers, most: int) -> Numbers:
    """Cut clusters of more than `most` photos along `order`, into stretches of about the same length."""
    found, first = np.empty_like(clusters), 0
    for number in np.unique(clusters):
        members = order[clusters[order] == number]
        pieces = -(-len(members) // most)
        found[members] = first + np.arange(len(members)) * pieces // len(members)
        first += pieces
    return found


def nearest(features: Tensor, whitened: float = 1.0) -> Array:
    """Squared distance (P, cells, P) of each cell of a photo from the nearest of each photo.

    features: (P, C, h, w); whitened: 1 for directions that vary alike, 0 for these as they are. Of about PAIRS numbers,
    as cells are means over larger parts of many photos.
    """
    count, height, width = len(features), *features.shape[-2:]
    side = int(min(max((PAIRS / count**2) ** 0.5, LOOK[0]), CELLS))
    cells = nn.functional.adaptive_avg_pool2d(features.float(), (min(side, height), min(side, width)))
    cells = cells.flatten(2).transpose(1, 2).double()  # (P, cells, C)
    flat = cells.flatten(0, 1)
    flat = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(flat.t() @ flat / len(flat))
    values, vectors = values.flip(0)[:DIRECTIONS], vectors.flip(1)[:, :DIRECTIONS]
    vectors = vectors[:, values > 1e-9 * values[0].clamp_min(1e-12)]
    white = flat @ vectors
    white = white / white.square().mean(0).sqrt().clamp_min(1e-12) ** whitened
    white = (white / white.square().mean().sqrt().clamp_min(1e-12)).float() if white.numel() else white.float()
    squares, found = white.square().sum(1), np.empty((count, cells.shape[1], count), np.float32)
    for number, own in enumerate(white.view(count, cells.shape[1], -1)):
        away = squares + own.square().sum(1, keepdim=True) - 2 * own @ white.t()
        found[number] = away.view(len(own), count, -1).amin(-1).clamp_min(0)
    found /= max(white.shape[1], 1)
    return found


def left_out(profile: Array, folds: Numbers) -> Scores:
    """Score photos by those of the other folds: logarithm of the farthest cell's distance in `nearest`, (P,)."""
    scores = np.empty(len(profile))
    for fold in np.unique(folds):
        own = folds == fold
        scores[own] = profile[own][:, :, ~own].min(2, initial=np.inf).max(1)
    found: Scores = np.log(scores + 1e-6)
    return found


def _largest(scores: Scores) -> float:
    """The mean of the largest share TOP."""
    return float(np.sort(scores)[-max(round(TOP * len(scores)), 1) :].mean())


def _blocks(order: Numbers, count: int, of: int = 0) -> Numbers:
    """Cut `order` into `count` stretches, (P,) of each photo; `of`: made of whole ones of so many smaller stretches."""
    found = np.empty_like(order)
    place = np.arange(len(order))
    found[order] = (place * of // len(order)) * count // of if of else place * count // len(order)
    return found


def _windows(photos: int) -> list[int]:
    """The numbers of photos that are left out to either side of one: 0, 1, and ever more."""
    found, wide = {0}, 1.0
    while wide <= max(WIDEST * photos, 1):
        found.add(round(wide))
        wide *= WIDER
    return sorted(found)


def in_windows(profile: Array, order: Numbers, windows: Sequence[int]) -> Scores:
    """Mean score of photos by those that lie more than so many places of `order` away, for each of `windows`."""
    count = len(order)
    along = profile[order][:, :, order]
    before = np.minimum.accumulate(along, axis=2)  # of all photos up to one, and from one on
    behind = np.minimum.accumulate(along[:, :, ::-1], axis=2)[:, :, ::-1]
    place, found = np.arange(count), []
    for window in windows:
        last, next_ = place - window - 1, place + window + 1
        earlier = np.where((last >= 0)[:, None], before[place, :, np.maximum(last, 0)], np.inf)
        later = np.where((next_ < count)[:, None], behind[place, :, np.minimum(next_, count - 1)], np.inf)
        found.append(float(np.log(np.minimum(earlier, later).max(1) + 1e-6).mean()))
    return np.array(found)


def independent(found: Scores, shuffled: Scores, windows: Sequence[int], photos: int) -> int:
    """Count the independent groups in an order of capture; as many as photos where the order does not matter.

    found: `in_windows` of the order, (windows,); shuffled: the same of random orders, (orders, windows).

    Without its neighbours a photo scores higher than without as many photos at random. The difference grows with the
    window until no sibling is left in, and slowly on where light or tools drift: what it comes to within an eighth of
    the photos counts, if it is clear by then. The order matters where it exceeds what random orders differ by. A window
    that reaches half of it, with the photo itself, is about as long as a run: so on drawn runs of 5 to 40 photos, on
    solar cells (20 and 22 groups by features of two sizes, of some 25 modules) and magnetic tiles
    (docs/results/thresholds.md).
    """
    gains, spread = found - shuffled.mean(0), shuffled.std(0, ddof=1) + 1e-9
    wide = np.array(windows) >= photos // 16
    if (gains[wide] / spread[wide]).max() < CERTAIN:
        return photos
    near = wide & (np.array(windows) <= photos // 8)
    clear = near.any() and (gains[near] / spread[near]).max() >= CERTAIN
    half = gains[near if clear else wide].max() / 2
    first = int(np.argmax(gains >= half))
    part = (half - gains[first - 1]) / (gains[first] - gains[first - 1])
    window = windows[first - 1] + part * (windows[first] - windows[first - 1])
    return min(max(round(photos / (2 * float(window) + 1)), 2), photos)
