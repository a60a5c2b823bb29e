from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from flawmap.measure import metrics
from flawmap.measure.metrics import PixelCounts

# Whole numbers make ties common.
labelled = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def columns(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in rows]), np.array([score / 12 for _, score in rows])


def pixel_metrics(maps: list[np.ndarray], masks: list[np.ndarray]) -> tuple[float, float, float]:
    edges = metrics.bin_edges(maps, masks)
    counts = [PixelCounts(map_, mask, edges) for map_, mask in zip(maps, masks, strict=True)]
    positives, negatives, overlap = (
        np.sum([getattr(count, name) for count in counts], axis=0, dtype=np.float64)[None]
        for name in ("positives", "negatives", "overlap")
    )
    regions = np.array([sum(count.regions for count in counts)], np.float64)
    found = (
        metrics.auroc_of(positives, negatives),
        metrics.ap_of(positives, negatives),
        metrics.aupro_of(overlap, regions, negatives),
    )
    return tuple(float(value[0]) for value in found)  # type: ignore[return-value]


def slow_aupro(maps: list[np.ndarray], masks: list[np.ndarray], max_fpr: float = 0.3) -> float:
    """As defined: for each threshold the mean overlap of the regions and the false-positive rate, then the area."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == label) for label in range(1, count + 1)]
    good = np.concatenate([map_[~mask] for map_, mask in zip(maps, masks, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(value) for map_ in maps for value in map_.ravel()}, reverse=True):
        overlaps = [(maps[number][region] >= threshold).mean() for number, region in regions]
        curve.append((float((good >= threshold).mean()), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def typical(sharpness: float, seed: int = 0, side: int = 96) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Softmax maps, half with a defect. Sharp ones crowd at 0 and 1, others lie close around one half."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for number in range(12):
        mask = np.zeros((side, side), bool)
        if number % 2:
            y, x, height, width = (*rng.integers(0, side - 40, 2), *rng.integers(10, 40, 2))
            mask[y : y + height, x : x + width] = True
        logits = sharpness * (rng.normal(-6, 2, mask.shape) + mask * rng.uniform(1, 9))
        maps.append((1 / (1 + np.exp(-logits))).astype(np.float32))
        masks.append(mask)
    return maps, masks


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labelled)
def test_image_auroc_and_ap_are_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    defective, scores = columns(rows)
    assert metrics.image_auroc(defective, scores) == pytest.approx(roc_auc_score(defective, scores), abs=1e-12)
    assert metrics.image_ap(defective, scores) == pytest.approx(average_precision_score(defective, scores), abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(labelled)
def test_f1_max_is_the_best_over_all_thresholds(rows: list[tuple[bool, int]]) -> None:
    defective, scores = columns(rows)
    best = max(f1_score(defective, scores >= threshold) for threshold in np.unique(scores))
    assert metrics.f1_max(defective, scores) == pytest.approx(best, abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(labelled, st.integers(0, 1000))
def test_counting_an_image_twice_is_having_it_twice(rows: list[tuple[bool, int]], seed: int) -> None:
    defective, scores = columns(rows)
    times = np.random.default_rng(seed).integers(0, 4, (1, len(rows)))
    times[0, [np.argmax(defective), np.argmin(defective)]] = 1
    counts = metrics.curve_counts(defective, scores, times.astype(np.float64))
    repeated = np.repeat(defective, times[0]), np.repeat(scores, times[0])
    assert metrics.auroc_of(*counts)[0] == pytest.approx(metrics.image_auroc(*repeated), abs=1e-12)
    assert metrics.ap_of(*counts)[0] == pytest.approx(metrics.image_ap(*repeated), abs=1e-12)
    assert metrics.f1_of(*counts)[0] == pytest.approx(metrics.f1_max(*repeated), abs=1e-12)


def test_equal_scores_rank_nothing() -> None:
    defective, scores = np.array([True, False, False, False]), np.full(4, 0.3)
    assert metrics.image_auroc(defective, scores) == 0.5
    assert metrics.image_ap(defective, scores) == 0.25


@pytest.mark.parametrize("label", [True, False])
def test_one_class_has_no_ranking(label: bool) -> None:
    defective, scores = np.full(5, label), np.linspace(0, 1, 5)
    for metric in (metrics.image_auroc, metrics.image_ap, metrics.f1_max):
        assert np.isnan(metric(defective, scores))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 100_000), st.sampled_from([3, 17, 1000]))
def test_pixel_metrics_of_few_values_are_exact(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [(rng.integers(0, values, (9, 11)) / values).astype(np.float32) for _ in range(3)]
    masks = [rng.random((9, 11)) < 0.2, np.zeros((9, 11), bool), rng.random((9, 11)) < 0.05]
    masks[0][0, 0] = True
    auroc, ap, aupro = pixel_metrics(maps, masks)
    truth, found = np.concatenate(masks).ravel(), np.concatenate(maps).ravel()
    assert auroc == pytest.approx(roc_auc_score(truth, found), abs=1e-6)
    assert ap == pytest.approx(average_precision_score(truth, found), abs=1e-6)
    assert aupro == pytest.approx(slow_aupro(maps, masks), abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.01, 0.2, 1, 3, 8])
def test_pixel_metrics_of_narrow_and_crowded_maps_agree_to_a_thousandth(sharpness: float) -> None:
    maps, masks = typical(sharpness)
    auroc, ap, _ = pixel_metrics(maps, masks)
    truth, found = np.concatenate(masks).ravel(), np.concatenate(maps).ravel()
    assert sum(len(np.unique(found[truth == label])) > metrics.BINS for label in (0, 1)) > 0  # so bins merge values
    assert auroc == pytest.approx(roc_auc_score(truth, found), abs=1e-3)
    assert ap == pytest.approx(average_precision_score(truth, found), abs=1e-3)


@pytest.mark.parametrize("sharpness", [0.01, 1])
def test_aupro_of_many_values_agrees_with_the_slow_one(sharpness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = typical(sharpness, seed=3, side=48)
    few = maps[:4], masks[:4]
    monkeypatch.setattr(metrics, "BINS", 1500)  # fewer than the values, which number about 9000
    assert pixel_metrics(*few)[2] == pytest.approx(slow_aupro(*few), abs=1e-3)


def test_bins_laid_by_a_sample_of_the_pixels_agree_too(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = typical(1, seed=5)
    exact = pixel_metrics(maps, masks)
    monkeypatch.setattr(metrics, "SAMPLED", 20_000)
    assert pixel_metrics(maps, masks) == pytest.approx(exact, abs=1e-3)


def test_half_precision_maps_give_nearly_the_same() -> None:
    maps, masks = typical(1, seed=2)
    assert pixel_metrics([map_.astype(np.float16) for map_ in maps], masks) == pytest.approx(
        pixel_metrics(maps, masks), abs=1e-3
    )


def test_a_perfect_map_has_aupro_1_and_a_flat_one_half_of_the_allowed_rate() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:8, 3:9] = True
    assert pixel_metrics([mask.astype(np.float32)], [mask])[2] == pytest.approx(1)
    assert pixel_metrics([np.full((20, 20), 0.5, np.float32)], [mask])[2] == pytest.approx(0.15)


def test_aupro_counts_a_small_region_as_much_as_a_large_one() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:22, 2:22] = True
    mask[30:32, 30:32] = True
    only_large, only_small = (np.zeros((40, 40), np.float32) for _ in range(2))
    only_large[2:22, 2:22] = 1
    only_small[30:32, 30:32] = 1
    assert pixel_metrics([only_large], [mask])[2] == pytest.approx(pixel_metrics([only_small], [mask])[2], abs=1e-6)


def test_without_regions_or_good_pixels_there_is_no_aupro() -> None:
    ones = np.ones((1, 3))
    assert np.isnan(metrics.aupro_of(ones, np.zeros(1), ones)).all()
    assert np.isnan(metrics.aupro_of(ones, np.ones(1), 0 * ones)).all()
