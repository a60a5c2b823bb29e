"""Metrics of detection and localization, exact and on histograms.

Detection: AUROC, average precision, best F1, escape and overkill. Localization: pixel AUROC and AP, and AUPRO, the
area under per-region overlap against false-positive rate up to 30 %, divided by 0.3 (Bergmann et al. 2021).

Pixel metrics of hundreds of maps are computed from histograms, an image at a time, so that memory stays bounded and a
bootstrap only adds up rows. Bins are equal steps of the map's logit: softmax maps crowd near 0 and 1, where equal
steps of the map itself would merge most pixels.

Axes: N images or pixels, R bootstrap resamples, T bins, G defect regions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

BINS = 8192
LOGIT_RANGE = 24.0  # logits beyond +-24 are outside what float32 softmax resolves
MAX_FPR = 0.3


def image_auroc(defective: Bools, scores: Floats) -> float:
    """Chance that a defective image scores above a good one, ties counting half; NaN with one class only."""
    positives, negatives = curve_counts(defective, scores)
    return auroc_of(positives, negatives)


def image_ap(defective: Bools, scores: Floats) -> float:
    """Average precision, sum of precision times step in recall (as scikit-learn); NaN without defective images."""
    positives, negatives = curve_counts(defective, scores)
    return ap_of(positives, negatives)


def f1_max(defective: Bools, scores: Floats) -> float:
    """Best F1 over all thresholds; NaN without defective images."""
    positives, negatives = curve_counts(defective, scores)
    found, alarms = positives.cumsum(), negatives.cumsum()
    total = found[-1] if len(found) else 0
    return float((2 * found / (found + alarms + total)).max()) if total else float("nan")


def escape(defective: Bools, rejected: Bools) -> float:
    """Share of the defective images that are not rejected; NaN when there are none."""
    return float(1 - rejected[defective].mean()) if defective.any() else float("nan")


def overkill(defective: Bools, rejected: Bools) -> float:
    """Share of the good images that are rejected; NaN when there are none."""
    return float(rejected[~defective].mean()) if not defective.all() else float("nan")


def curve_counts(positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Numbers of positives and negatives at each distinct score, highest score first."""
    values, places = np.unique(-scores, return_inverse=True)
    return (
        np.bincount(places[positive], minlength=len(values)).astype(np.float64),
        np.bincount(places[~positive], minlength=len(values)).astype(np.float64),
    )


def auroc_of(positives: Floats, negatives: Floats) -> float:
    """AUROC from counts at each score, highest first (..., T)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        above = positives.cumsum(-1) - positives / 2  # a tie counts half
        area: Floats = (above * negatives).sum(-1) / (positives.sum(-1) * negatives.sum(-1))
    return area if area.ndim else float(area)  # type: ignore[return-value]


def ap_of(positives: Floats, negatives: Floats) -> float:
    """Average precision from counts at each score, highest first (..., T)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = positives.cumsum(-1)
        precision = np.where(found > 0, found / (found + negatives.cumsum(-1)), 0.0)
        area: Floats = (precision * positives).sum(-1) / positives.sum(-1)
    return area if area.ndim else float(area)  # type: ignore[return-value]


def to_bins(map_: np.ndarray[Any, Any]) -> Ints:
    """Bin of each value of a map in [0, 1], highest value in bin 0; monotonous, so ranks are kept up to ties."""
    values = np.clip(map_.astype(np.float64), 1e-11, 1 - 1e-11)
    logits = np.log(values) - np.log1p(-values)
    share = (np.clip(logits, -LOGIT_RANGE, LOGIT_RANGE) + LOGIT_RANGE) / (2 * LOGIT_RANGE)
    return (BINS - 1 - np.minimum((share * BINS).astype(np.int64), BINS - 1)).astype(np.int64)


class PixelCounts:
    """Histograms of one image's map under its mask: what pixel metrics need, a few kilobytes an image.

    positives, negatives (T,): pixels in each bin; overlap (T,): sum over the image's regions of the share of the
    region in each bin; regions: how many regions there are (8-connected).
    """

    def __init__(self, map_: np.ndarray[Any, Any], mask: Bools) -> None:
        from scipy import ndimage

        bins = to_bins(map_)
        self.positives = np.bincount(bins[mask], minlength=BINS).astype(np.int32)
        self.negatives = np.bincount(bins[~mask], minlength=BINS).astype(np.int32)
        self.overlap = np.zeros(BINS, np.float32)
        labels, self.regions = ndimage.label(mask, structure=np.ones((3, 3)))
        if self.regions:
            sizes = np.bincount(labels.ravel(), minlength=self.regions + 1)
            self.overlap = np.bincount(bins[mask], 1.0 / sizes[labels[mask]], minlength=BINS).astype(np.float32)


def aupro_of(overlap: Floats, regions: Floats, negatives: Floats, max_fpr: float = MAX_FPR) -> Floats:
    """AUPRO from summed histograms: overlap (R, T), regions (R,), negatives (R, T) -> (R,).

    Trapezoids of mean region overlap over false-positive rate, the last one cut at `max_fpr`.
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
