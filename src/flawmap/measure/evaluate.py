"""From scored images to an evaluation: every metric with a 95 % interval, a figure per kind of defect, files.

Intervals are percentiles of a bootstrap over images, good and defective ones resampled apart (so that their numbers
stay). Protocol `authors`: the central 224x224 of a 256x256 map against masks resized bilinearly and cut to integers.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.measure import metrics
from flawmap.measure.metrics import Bools, Floats, PixelCounts

NAMES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "f1_max", "escape", "overkill")
RESAMPLES = 1000
PIXEL_RESAMPLES = 200  # each adds up the histograms of all images
BORDER = 16  # pixels left out on each side of 256 by the protocol `authors`


@dataclass
class ImageResult:
    """One labelled image as inspected.

    map: (h, w) in [0, 1]; mask: (h, w) bool, or None for a defective image without one, which counts for detection
    and is left out of localization; threshold: NaN when the bundle has none
    """

    image: str
    kind: str
    defective: bool
    score: float
    threshold: float
    map: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class Value:
    """A metric and its 95 % interval; NaN where it cannot be computed."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """NaN becomes null, which is what JSON has."""
        return {name: None if math.isnan(number) else number for name, number in vars(self).items()}


@dataclass(frozen=True)
class Evaluation:
    """All metrics of a test set.

    values: by the names in NAMES; kinds: image AUROC of each kind of defect against all good images
    """

    values: dict[str, Value]
    kinds: dict[str, Value]
    protocol: str
    good: int
    defective: int
    without_mask: int
    threshold: float
    counts_by_kind: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What metrics.json holds."""
        result: dict[str, Any] = {name: self.values[name].to_json() for name in NAMES}
        result["kinds"] = {kind: value.to_json() | {"images": self.counts_by_kind[kind]} for kind, value in self.kinds.items()}
        result |= {"protocol": self.protocol, "good": self.good, "defective": self.defective}
        result |= {"without_mask": self.without_mask, "threshold": Value(self.threshold).to_json()["value"]}
        return result


def evaluate_results(
    rows: Sequence[ImageResult], protocol: str = "full", *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Measure inspected images. A metric is NaN when a class or all masks are missing."""
    defective = np.array([row.defective for row in rows])
    scores = np.array([row.score for row in rows], np.float64)
    assert np.isfinite(scores).all(), "a score is always a number"
    limits = np.array([row.threshold for row in rows], np.float64)
    known = bool(np.isfinite(limits).all()) and len(rows) > 0
    rejected = scores > limits
    rng = np.random.default_rng(seed)
    draws = _stratified(defective, resamples, rng)

    def interval(metric: Any, *columns: Any) -> Value:
        return _value(metric(*columns), [metric(*(column[draw] for column in columns)) for draw in draws])

    values = {
        "image_auroc": interval(metrics.image_auroc, defective, scores),
        "image_ap": interval(metrics.image_ap, defective, scores),
        "f1_max": interval(metrics.f1_max, defective, scores),
        "escape": interval(metrics.escape, defective, rejected) if known else Value(math.nan),
        "overkill": interval(metrics.overkill, defective, rejected) if known else Value(math.nan),
    }
    values |= _pixel_values(rows, protocol, rng)
    kinds, numbers = {}, {}
    for kind in sorted({row.kind for row in rows if row.defective}):
        chosen = np.array([not row.defective or row.kind == kind for row in rows])
        numbers[kind] = int((chosen & defective).sum())
        kept_defective, kept_scores = defective[chosen], scores[chosen]
        parts = _stratified(kept_defective, resamples, rng)
        again = [metrics.image_auroc(kept_defective[part], kept_scores[part]) for part in parts]
        kinds[kind] = _value(metrics.image_auroc(kept_defective, kept_scores), again)
    return Evaluation(
        values={name: values[name] for name in NAMES},
        kinds=kinds,
        protocol=protocol,
        good=int((~defective).sum()),
        defective=int(defective.sum()),
        without_mask=sum(row.mask is None for row in rows),
        threshold=float(limits[0]) if known else math.nan,
        counts_by_kind=numbers,
    )


def authors_view(map_: np.ndarray[Any, Any], mask: Bools) -> tuple[np.ndarray[Any, Any], Bools]:
    """The part of a map and mask that the authors score: without a border of 16 pixels in 256."""
    down, across = (round(side * BORDER / 256) for side in map_.shape)
    inside = (slice(down, map_.shape[0] - down), slice(across, map_.shape[1] - across))
    return map_[inside], mask[inside]


def _pixel_values(rows: Sequence[ImageResult], protocol: str, rng: np.random.Generator) -> dict[str, Value]:
    names = ("pixel_auroc", "pixel_ap", "aupro")
    with_mask = [row for row in rows if row.mask is not None]
    counts = []
    for row in with_mask:
        assert row.mask is not None
        view = authors_view(row.map, row.mask) if protocol == "authors" else (row.map, row.mask)
        counts.append(PixelCounts(*view))
    if not any(count.regions for count in counts):
        return {name: Value(math.nan) for name in names}
    positives = np.stack([count.positives for count in counts])
    negatives = np.stack([count.negatives for count in counts])
    overlap = np.stack([count.overlap for count in counts])
    regions = np.array([count.regions for count in counts], np.float64)
    draws = _stratified(np.array([row.defective for row in with_mask]), PIXEL_RESAMPLES, rng)
    # Row 0: every image once; then how often each image is in each resample. (1 + R, N)
    times = np.stack([np.ones(len(counts)), *(np.bincount(draw, minlength=len(counts)) for draw in draws)])
    times = times.astype(np.float32)
    summed = {name: (times @ table.astype(np.float32)).astype(np.float64) for name, table in
              (("positives", positives), ("negatives", negatives), ("overlap", overlap))}  # fmt: skip
    summed["positives"][0], summed["negatives"][0] = positives.sum(0), negatives.sum(0)  # exact, not float32
    found: dict[str, Floats] = {
        "pixel_auroc": np.asarray(metrics.auroc_of(summed["positives"], summed["negatives"])),
        "pixel_ap": np.asarray(metrics.ap_of(summed["positives"], summed["negatives"])),
        "aupro": metrics.aupro_of(summed["overlap"], times @ regions, summed["negatives"]),
    }
    return {name: _value(float(found[name][0]), found[name][1:].tolist()) for name in names}


def _stratified(defective: Bools, resamples: int, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
    """Index arrays (N,), good and defective images drawn with replacement apart."""
    groups = [np.flatnonzero(defective == kind) for kind in (False, True)]
    return [
        np.concatenate([rng.choice(group, len(group)) for group in groups if len(group)] or [np.empty(0, np.int64)])
        for _ in range(resamples)
    ]


def _value(value: float, resampled: Sequence[float]) -> Value:
    kept = [number for number in resampled if not math.isnan(number)]
    if math.isnan(value) or not kept:
        return Value(value)
    low, high = np.percentile(kept, [2.5, 97.5])
    return Value(float(value), float(low), float(high))


def write_evaluation(folder: Path, evaluation: Evaluation, rows: Sequence[ImageResult]) -> None:
    """Write metrics.json and, a row per image, images.csv; neither is ever half there."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["image", "kind", "label", "score", "threshold", "defective", "correct"])
    for row in rows:
        known = not math.isnan(row.threshold)
        verdict = row.score > row.threshold
        cells: list[object] = [row.image, row.kind, "defective" if row.defective else "good", repr(row.score)]
        cells += [repr(row.threshold), str(verdict).lower(), str(verdict == row.defective).lower()] if known else [""] * 3
        writer.writerow(cells)
    for name, text in (("images.csv", table.getvalue()), ("metrics.json", json.dumps(evaluation.to_json(), indent=2) + "\n")):
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        temporary.replace(folder / name)
