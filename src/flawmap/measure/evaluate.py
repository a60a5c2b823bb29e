"""From scored images to an evaluation: every metric with a 95 % interval, a figure per kind of defect, files.

Intervals are percentiles of a bootstrap over images, good and defective ones resampled apart (so that their numbers
stay). Two cases where it would promise too much are treated apart: a share of 0 or 1, whose resamples are all alike,
gets the exact binomial interval (Clopper & Pearson 1934), and a class with a single image gives no interval.

Protocol `full`: the map at the photo's own size against the mask as it was drawn, as MVTec's evaluation code does, so
that a defect of a pixel's width counts as it is; maps are enlarged one at a time. `network`: the map as the network
gives it against masks resized by nearest neighbour (flawmap until 0.1). `authors`: the central 224x224 of a 256x256 map
against masks resized bilinearly and cut to integers.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import resize_map
from flawmap.errors import DataError
from flawmap.measure import metrics
from flawmap.measure.exchangeability import GoodParts
from flawmap.measure.metrics import Bools, Floats, Floats32, PixelCounts
from flawmap.measure.near_duplicates import LeftOut
from flawmap.measure.runs import RunMask
from flawmap.tables import TableWriter

Array = np.ndarray[Any, Any]

NAMES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "seg_f1", "aupro", "f1_max", "escape", "overkill")
PIXEL_NAMES = ("pixel_auroc", "pixel_ap", "seg_f1", "aupro")
OVERKILLS = (0.01, 0.02, 0.05)  # asked of the good photos' scores, at which escape is reported
RESAMPLES = 1000
AT_ONCE = 100  # resamples of pixel histograms in memory
LEVEL = 0.95
MAP_SIZES = {"full": "photo"}  # what the map is measured at, by protocol where it is not the protocol's name
BORDER = 16  # pixels left out on each side of 256 by the protocol `authors`


@dataclass
class ImageResult:
    """One labelled image as inspected.

    map: (h, w) in [0, 1]; mask: (H, W) bool, to whose size the map is enlarged, or None for a defective image without
    one, which counts for detection and is left out of localization; threshold: NaN when the bundle has none; inside:
    (H, W) bool, the pixels that localization counts, None for all; pixel_threshold: of the map, for SegF1; NaN when the
    bundle has none
    """

    image: str
    kind: str
    defective: bool
    score: float
    threshold: float
    map: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any] | RunMask | None
    inside: Bools | None = None
    pixel_threshold: float = math.nan


@dataclass(frozen=True)
class Value:
    """A metric and its 95 % interval; NaN where it cannot be computed (one image is too few for an interval)."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """NaN becomes null, which is what JSON has."""
        return {name: None if math.isnan(number) else number for name, number in vars(self).items()}


@dataclass(frozen=True)
class AtOverkill:
    """Shares of the test parts at the threshold that a bundle's good photos set for another overkill.

    asked: that overkill; escape: defective parts that pass, NaN without any; overkill: good parts that are rejected
    supported: whether there are enough good photos to promise `asked`
    """

    asked: float
    threshold: float
    escape: float
    overkill: float
    supported: bool

    def to_json(self) -> dict[str, float | bool | None]:
        """As metrics.json holds it, under the key `asked`."""
        shares = {name: Value(getattr(self, name)).to_json()["value"] for name in ("escape", "overkill")}
        return shares | {"threshold": self.threshold, "supported": self.supported}


@dataclass(frozen=True)
class Evaluation:
    """All metrics of a test set.

    values: by the names in NAMES; kinds: image AUROC of each kind of defect against all good images
    without_mask: defective images that have none; empty_mask: whose mask marks no pixel; by protocol `full` both are
    left out of localization, by the others the latter count as all good pixels
    mask_notes: what is to be said of the masks as they were read
    learnt_from: images left out, since the bundle learnt from them as real defects
    pixel_threshold: what SegF1 was taken at; escape_at: at other overkills, empty where the bundle knows no scores of
    good photos; good_parts: whether the good parts are like these photos, None where that is not known
    left_out: training photos near each test photo, where these were left out
    """

    values: dict[str, Value]
    kinds: dict[str, Value]
    protocol: str
    good: int
    defective: int
    without_mask: int
    threshold: float
    counts_by_kind: dict[str, int] = field(default_factory=dict)
    empty_mask: int = 0
    learnt_from: int = 0
    pixel_threshold: float = math.nan
    escape_at: tuple[AtOverkill, ...] = ()
    good_parts: GoodParts | None = None
    left_out: LeftOut | None = None
    mask_notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What metrics.json holds."""
        result: dict[str, Any] = {name: self.values[name].to_json() for name in NAMES}
        result["kinds"] = {
            kind: value.to_json() | {"images": self.counts_by_kind[kind]} for kind, value in self.kinds.items()
        }
        result |= {"protocol": self.protocol, "map_size": MAP_SIZES.get(self.protocol, self.protocol)}
        result |= {"good": self.good, "defective": self.defective}
        result |= {"without_mask": self.without_mask, "empty_mask": self.empty_mask}
        result |= {"mask_notes": list(self.mask_notes)} if self.mask_notes else {}
        result |= {"learnt_from": self.learnt_from} if self.learnt_from else {}
        for name in ("threshold", "pixel_threshold"):
            result[name] = Value(getattr(self, name)).to_json()["value"]
        if self.escape_at:
            result["escape_at"] = {f"{one.asked:g}": one.to_json() for one in self.escape_at}
        if self.good_parts is not None:
            result["good_parts"] = self.good_parts.to_json()
        if self.left_out is not None:
            result["without_near_duplicates"] = self.left_out.to_json()
        return result


def evaluate_results(
    rows: Sequence[ImageResult], protocol: str = "full", *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Measure inspected images. A metric is NaN when a class or all masks are missing.

    Scores are numbers, maps lie in [0, 1]: anything else is a mistake of the program (AssertionError).
    """
    defective = np.array([row.defective for row in rows], np.bool_)
    scores = np.array([row.score for row in rows], np.float64)
    assert np.isfinite(scores).all(), "a score is always a number"
    limits = np.array([row.threshold for row in rows], np.float64)
    known = len(rows) > 0 and bool(np.isfinite(limits).all())
    pixel_limits = np.array([row.pixel_threshold for row in rows], np.float64)
    pixel_limit = float(pixel_limits[0]) if len(rows) else math.nan
    assert np.array_equal(pixel_limits, np.full(len(rows), pixel_limit), equal_nan=True), "one threshold for all images"
    rng = np.random.default_rng(seed)
    values = _detection(defective, scores, scores > limits if known else None, resamples, rng)
    values |= _localization(rows, protocol, pixel_limit, resamples, rng)
    kinds, numbers = {}, {}
    for kind in sorted({row.kind for row in rows if row.defective}):
        chosen = np.array([not row.defective or row.kind == kind for row in rows])
        numbers[kind] = int((chosen & defective).sum())
        kinds[kind] = _detection(defective[chosen], scores[chosen], None, resamples, rng)["image_auroc"]
    return Evaluation(
        values={name: values[name] for name in NAMES},
        kinds=kinds,
        protocol=protocol,
        good=int((~defective).sum()),
        defective=int(defective.sum()),
        without_mask=sum(row.mask is None for row in rows),
        threshold=float(limits[0]) if known else math.nan,
        counts_by_kind=numbers,
        empty_mask=sum(row.defective and row.mask is not None and not row.mask.any() for row in rows),
        pixel_threshold=pixel_limit,
    )


def at_overkill(rows: Sequence[ImageResult], asked: float, threshold: float, supported: bool) -> AtOverkill:
    """Escape and overkill of inspected images at another threshold, which was set for the overkill `asked`."""
    above = np.array([row.score > threshold for row in rows], np.bool_)
    defective = np.array([row.defective for row in rows], np.bool_)
    once = np.ones((1, len(rows)))
    escape, overkill = metrics.share_of(~above, defective, once), metrics.share_of(above, ~defective, once)
    return AtOverkill(asked, threshold, float(escape[0]), float(overkill[0]), supported)


def authors_view(whole: Array) -> Array:
    """The part of a map or mask (h, w) that the authors score: without a border of 16 pixels in 256."""
    down, across = (round(side * BORDER / 256) for side in whole.shape)
    return whole[down : whole.shape[0] - down, across : whole.shape[1] - across]


def _detection(
    defective: Bools, scores: Floats, rejected: Bools | None, resamples: int, rng: np.random.Generator
) -> dict[str, Value]:
    times = _times(defective, resamples, rng)
    counts = metrics.curve_counts(defective, scores, times)
    several = bool(min(defective.sum(), (~defective).sum()) > 1)
    values = {
        "image_auroc": _value(metrics.auroc_of(*counts), several),
        "image_ap": _value(metrics.ap_of(*counts), several),
        "f1_max": _value(metrics.f1_of(*counts), several),
    }
    if rejected is None:
        return values | {"escape": Value(math.nan), "overkill": Value(math.nan)}
    escape = metrics.share_of(~rejected, defective, times)
    overkill = metrics.share_of(rejected, ~defective, times)
    values["escape"] = _share(escape, int(defective.sum()))
    values["overkill"] = _share(overkill, int((~defective).sum()))
    return values


def _localization(
    rows: Sequence[ImageResult], protocol: str, threshold: float, resamples: int, rng: np.random.Generator
) -> dict[str, Value]:
    rows = [row for row in rows if row.mask is not None]
    if protocol == "full":  # a defect that is marked nowhere may be anywhere
        rows = [row for row in rows if not row.defective or (row.mask is not None and row.mask.any())]
    views = _Views(rows, protocol)
    masks, insides = _Each(len(rows), views.mask), _Each(len(rows), views.inside)
    marked = [_marked(mask, inside) for mask, inside in zip(masks, insides, strict=True)]
    if not any(marked):
        return {name: Value(math.nan) for name in PIXEL_NAMES}
    assert all(np.isfinite(row.map).all() for row in rows), "a map holds numbers"
    edges = metrics.bin_edges(_Each(len(rows), views.map), masks, insides)
    counts, confusion_of = [], []
    for number in range(len(rows)):
        seen = views.map(number), views.mask(number)
        counts.append(PixelCounts(*seen, edges, views.inside(number)))
        # without a threshold, NaN, nothing lies above it; the result is replaced below
        confusion_of.append(metrics.pixel_confusion(*seen, threshold, views.inside(number)))
    tables = [np.stack([getattr(count, name) for count in counts]) for name in ("positives", "negatives", "overlap")]
    regions = np.array([count.regions for count in counts], np.float64)
    confusion = np.stack(confusion_of)
    defective = np.array([row.defective for row in rows], np.bool_)
    found: dict[str, list[Floats]] = {name: [] for name in PIXEL_NAMES}
    for times in _blocks(_times(defective, resamples, rng)):
        # float32 halves the work; its sums are right to 1e-7
        positives, negatives, overlap = ((times.astype(np.float32) @ table).astype(np.float64) for table in tables)
        found["pixel_auroc"].append(metrics.auroc_of(positives, negatives))
        found["pixel_ap"].append(metrics.ap_of(positives, negatives))
        found["seg_f1"].append(metrics.seg_f1_of(times @ confusion))
        found["aupro"].append(metrics.aupro_of(overlap, times @ regions, negatives))
    several = sum(marked) > 1
    values = {name: _value(np.concatenate(found[name]), several) for name in PIXEL_NAMES}
    return values if math.isfinite(threshold) else values | {"seg_f1": Value(math.nan)}


class _Views:
    """Map, mask and counted pixels of each row as its protocol compares them, made when they are asked for."""

    def __init__(self, rows: Sequence[ImageResult], protocol: str) -> None:
        self.rows, self.authors = rows, protocol == "authors"

    def mask(self, number: int) -> Bools:
        """(H, W), or its middle."""
        mask = self.rows[number].mask
        assert mask is not None, "rows without a mask have no pixels to measure"
        return self._view(mask.full() if isinstance(mask, RunMask) else mask)

    def map(self, number: int) -> Floats32:
        """The map at the size of its mask."""
        row = self.rows[number]
        assert row.mask is not None, "rows without a mask have no pixels to measure"
        if row.map.shape == row.mask.shape:
            return self._view(row.map)
        enlarged = resize_map(row.map, row.mask.shape[0], row.mask.shape[1])
        return self._view(np.clip(enlarged, 0, 1, out=enlarged))

    def inside(self, number: int) -> Bools | None:
        """The pixels that count, at the same size."""
        inside = self.rows[number].inside
        return None if inside is None else self._view(inside)

    def _view(self, whole: Array) -> Array:
        return authors_view(whole) if self.authors else whole


class _Each(Sequence[Any]):
    """`count` things, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self.length, self.make = count, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.length:
            raise IndexError(number)
        return self.make(number)


def _marked(mask: Bools, inside: Bools | None) -> bool:
    return bool(mask.any() if inside is None else (mask & inside).any())


def _times(defective: Bools, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each image is in each resample, good and defective ones drawn apart: (1 + R, N), row 0 all ones."""
    times = np.ones((1 + resamples, len(defective)))
    for group in (defective, ~defective):
        if count := int(group.sum()):
            times[1:, group] = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return times


def _blocks(times: Floats) -> Iterator[Floats]:
    for start in range(0, len(times), AT_ONCE):
        yield times[start : start + AT_ONCE]


def _value(found: Floats, several: bool) -> Value:
    """The metric on all images (row 0) and percentiles of the others; `several`: more than one image of each class."""
    kept = found[1:][~np.isnan(found[1:])]
    if math.isnan(found[0]) or not several or len(kept) == 0:
        return Value(float(found[0]))
    low, high = np.percentile(kept, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Value(float(found[0]), float(low), float(high))


def _share(found: Floats, count: int) -> Value:
    """The same for a share of `count` images, exact where it is 0 or 1."""
    if found[0] in (0.0, 1.0):
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / count)
        return Value(float(found[0]), *((0.0, reach) if found[0] == 0 else (1 - reach, 1.0)))
    return _value(found, several=True)


def write_evaluation(folder: Path, evaluation: Evaluation, rows: Sequence[ImageResult], ending: str = "") -> None:
    """Write metrics.json and, a row per image, images.csv, `ending` behind either stem; neither is ever half there.

    Raises DataError when the folder cannot be written.
    """
    table = io.StringIO()
    writer = TableWriter(table)
    writer.writerow(["image", "kind", "label", "score", "threshold", "defective", "correct"])
    for row in rows:
        cells: list[object] = [row.image, row.kind, "defective" if row.defective else "good", row.score]
        if math.isnan(row.threshold):
            cells += ["", "", ""]
        else:
            verdict = row.score > row.threshold
            cells += [row.threshold, str(verdict).lower(), str(verdict == row.defective).lower()]
        writer.writerow(cells)
    _write(folder / f"images{ending}.csv", table.getvalue())
    _write(folder / f"metrics{ending}.json", json.dumps(evaluation.to_json(), indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # surrogateescape: a file name that is not valid Unicode is written as the bytes it has.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({problem.strerror}); choose another folder") from problem
