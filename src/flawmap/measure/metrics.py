"""Metrics of detection and localization, from counts at each score.

Detection: AUROC, average precision, best F1, escape and overkill. Localization: pixel AUROC and AP, and AUPRO, the
area under per-region overlap against false-positive rate up to 30 %, divided by 0.3 (Bergmann et al. 2021), and SegF1,
pixel F1 over all images at one threshold that is given (MVTec AD 2: Heckler-Kram et al. 2025).

Detection and SegF1 are exact. The other pixel metrics of hundreds of maps come from histograms, an image at a time, so
that memory stays bounded and a bootstrap only adds up rows. The bins are quantiles of the defective and of the good
pixels: no bin holds more than a few thousandths of either, however narrow or crowded near 0 and 1 the maps are, so that
the result is within 1e-3 of the exact one. With fewer distinct values than bins it is exact.

Axes: N images, R resamples, T distinct scores or bins, highest first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Floats32 = np.ndarray[Any, np.dtype[np.float32]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

BINS = 4096  # of each class of pixels
SAMPLED = 1_000_000  # pixels of each class that the bins are laid by
MAX_FPR = 0.3


def image_auroc(defective: Bools, scores: Floats) -> float:
    """Chance that a defective image (N,) scores above a good one, ties counting half; NaN with one class only."""
    return float(auroc_of(*curve_counts(defective, scores))[0])


def image_ap(defective: Bools, scores: Floats) -> float:
    """Average precision, sum of precision times step in recall (as scikit-learn); NaN with one class only."""
    return float(ap_of(*curve_counts(defective, scores))[0])


def f1_max(defective: Bools, scores: Floats) -> float:
    """Best F1 over all thresholds; NaN with one class only."""
    return float(f1_of(*curve_counts(defective, scores))[0])


def escape_at(defective: Bools, scores: Floats, overkill: float) -> float:
    """Share of defective images (N,) that pass where at most this share of the good ones is rejected.

    Rejected is what scores above the threshold, the lowest at which that holds. NaN with one class only.
    """
    good, bad = np.sort(scores[~defective])[::-1], scores[defective]
    if len(good) == 0 or len(bad) == 0:
        return math.nan
    threshold = good[int(overkill * len(good) + 1e-9)]
    return float((bad <= threshold).mean())


def share_of(hit: Bools, among: Bools, times: Floats) -> Floats:
    """Share of the images `among` (N,) that are `hit`, in each resample `times` (R, N) -> (R,); NaN without any."""
    with np.errstate(invalid="ignore"):
        return np.asarray((times @ (hit & among)) / (times @ among), np.float64)


def curve_counts(positive: Bools, scores: Floats, times: Floats | None = None) -> tuple[Floats, Floats]:
    """Positives and negatives at each distinct score, highest first: two (R, T).

    `times` (R, N): how often each image is counted; once, R = 1, without it.
    """
    if times is None:
        times = np.ones((1, len(scores)))
    if len(scores) == 0:
        return np.zeros((len(times), 0)), np.zeros((len(times), 0))
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    counted, is_positive = times[:, order], positive[order]
    return (
        np.add.reduceat(counted * is_positive, starts, axis=1),
        np.add.reduceat(counted * ~is_positive, starts, axis=1),
    )


def auroc_of(positives: Floats, negatives: Floats) -> Floats:
    """AUROC from counts (R, T) -> (R,); NaN where a class is missing."""
    above = positives.cumsum(1) - positives / 2  # a tie counts half
    with np.errstate(invalid="ignore"):
        return np.asarray((above * negatives).sum(1) / (positives.sum(1) * negatives.sum(1)), np.float64)


def ap_of(positives: Floats, negatives: Floats) -> Floats:
    """Average precision from counts (R, T) -> (R,); NaN where a class is missing: there is nothing to rank."""
    found = positives.cumsum(1)
    with np.errstate(invalid="ignore"):
        precision = found / np.maximum(found + negatives.cumsum(1), 1e-12)
        area = (precision * positives).sum(1) / positives.sum(1)
    return np.where(negatives.sum(1) > 0, area, np.nan)


def f1_of(positives: Floats, negatives: Floats) -> Floats:
    """Best F1 from counts (R, T) -> (R,); NaN where a class is missing."""
    total = positives.sum(1)
    found, called = positives.cumsum(1), positives.cumsum(1) + negatives.cumsum(1)
    best = (2 * found / np.maximum(called + total[:, None], 1e-12)).max(1, initial=0.0)
    return np.where((total > 0) & (negatives.sum(1) > 0), best, np.nan)


def pixel_confusion(
    map_: np.ndarray[Any, Any], mask: Bools, threshold: float, inside: Bools | None = None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count one image's pixels at a threshold: true positives, false positives, false negatives (3,).

    Positive is where the map (h, w) exceeds `threshold`, as regions are. Pixels not `inside` do not count.
    """
    found = called = marked = 0
    for rows in _bands(len(mask)):
        above, true = map_[rows] > threshold, mask[rows]
        if inside is not None:
            above, true = above & inside[rows], true & inside[rows]
        found += int(np.count_nonzero(above & true))
        called += int(np.count_nonzero(above))
        marked += int(np.count_nonzero(true))
    return np.array([found, called - found, marked - found], np.int64)


def seg_f1_of(confusion: Floats) -> Floats:
    """SegF1 from pixels summed over images, true positives, false positives, false negatives (R, 3) -> (R,).

    2 TP / (2 TP + FP + FN); NaN where no pixel is defective.
    """
    found, false, missed = confusion.T
    with np.errstate(invalid="ignore"):
        return np.where(found + missed > 0, 2 * found / (2 * found + false + missed), np.nan)


def bin_edges(
    maps: Sequence[np.ndarray[Any, Any]], masks: Sequence[Bools], insides: Sequence[Bools | None] = ()
) -> Floats32:
    """Edges of the bins for these maps (h, w) and masks: quantiles of the defective and of the good pixels, rising.

    `insides`: the pixels of each that count; all without. Sequences may make their items when they are asked for.
    """
    rng = np.random.default_rng(0)  # only which pixels are looked at
    edges = []
    insides = insides or [None] * len(maps)
    for defective in (True, False):
        total = 0
        for mask, inside in zip(masks, insides, strict=True):
            total += int(np.count_nonzero(_of_class(mask, inside, defective)))
        share = min(1.0, SAMPLED / max(total, 1))
        values = [np.zeros(0, np.float32)]
        for number, (mask, inside) in enumerate(zip(masks, insides, strict=True)):
            if defective and not mask.any():
                continue
            map_ = maps[number]
            for rows in _bands(len(mask)):
                found = map_[rows][_of_class(mask[rows], None if inside is None else inside[rows], defective)]
                values.append(found if share == 1 else found[rng.random(len(found)) < share])
        pooled = np.sort(np.concatenate(values).astype(np.float32))
        distinct = np.unique(pooled)
        if len(distinct) > BINS:
            distinct = np.unique(pooled[np.linspace(0, len(pooled) - 1, BINS).round().astype(np.int64)])
        edges.append(distinct)
    return np.unique(np.concatenate(edges))


def _of_class(mask: Bools, inside: Bools | None, defective: bool) -> Bools:
    """The defective or the good pixels (h, w) that count."""
    chosen: Bools = mask == defective
    return chosen if inside is None else chosen & inside


def _bins(values: np.ndarray[Any, Any], edges: Floats32) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The bin of each value, highest first."""
    return np.asarray(len(edges) - np.searchsorted(edges, values.astype(np.float32), side="right"), np.int64)


def _bands(height: int) -> Iterator[slice]:
    """Some rows at a time, so that what is computed for each pixel of a large photo is never all in memory."""
    return (slice(top, top + 512) for top in range(0, height, 512))


class PixelCounts:
    """Histograms of one image's map under its mask: what pixel metrics need of it. Pixels not `inside` do not count.

    positives, negatives (T,): pixels in each bin; overlap (T,): sum over the image's defect regions of the share of
    the region in each bin; regions: how many there are (8-connected). T = edges + 1, highest bin first.
    """

    def __init__(self, map_: np.ndarray[Any, Any], mask: Bools, edges: Floats32, inside: Bools | None = None) -> None:
        from scipy import ndimage

        count = len(edges) + 1
        positives, negatives = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for rows in _bands(len(mask)):
            bins, part = _bins(map_[rows], edges), None if inside is None else inside[rows]
            positives += np.bincount(bins[_of_class(mask[rows], part, True)], minlength=count)
            negatives += np.bincount(bins[_of_class(mask[rows], part, False)], minlength=count)
        self.positives, self.negatives = positives.astype(np.float32), negatives.astype(np.float32)
        self.overlap, self.regions = np.zeros(count, np.float32), 0
        if mask.any():
            where = ndimage.find_objects(mask.astype(np.uint8))[0]  # defects are small: not all pixels are numbered
            marked = _of_class(mask[where], None if inside is None else inside[where], True)
            labels, self.regions = ndimage.label(marked, structure=np.ones((3, 3)))
            if self.regions:
                sizes, found = np.bincount(labels.ravel()), _bins(map_[where][marked], edges)
                self.overlap = np.bincount(found, 1.0 / sizes[labels[marked]], minlength=count).astype(np.float32)


def aupro_of(overlap: Floats, regions: Floats, negatives: Floats, max_fpr: float = MAX_FPR) -> Floats:
    """AUPRO from summed histograms: overlap (R, T), regions (R,), negatives (R, T) -> (R,).

    Trapezoids of mean region overlap over false-positive rate, the last one cut at `max_fpr`. NaN without regions or
    without good pixels.
    """
    result = np.full(len(overlap), np.nan)
    for row in range(len(overlap)):
        total = negatives[row].sum()
        if regions[row] == 0 or total == 0:
            continue
        x = np.concatenate([[0.0], negatives[row].cumsum() / total])
        y = np.concatenate([[0.0], overlap[row].cumsum() / regions[row]])
        inside = x <= max_fpr
        end = np.interp(max_fpr, x, y)
        result[row] = np.trapezoid(np.append(y[inside], end), np.append(x[inside], max_fpr)) / max_fpr
    return result
