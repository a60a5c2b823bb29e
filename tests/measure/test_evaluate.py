"""Evaluation of inspected images: keys, intervals, what is left out, files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from flawmap.data.images import read_mask, resize_map
from flawmap.measure.evaluate import ImageResult, at_overkill, evaluate_results, write_evaluation
from flawmap.measure.runs import RunMask

KEYS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "seg_f1", "aupro", "f1_max", "escape", "overkill")


def row(number: int, defective: bool, score: float, *, threshold: float = 0.5, masked: bool = True) -> ImageResult:
    map_ = np.random.default_rng(number).random((64, 64), dtype=np.float32) * 0.2
    mask = np.zeros((64, 64), bool)
    if defective:
        mask[20:30, 20:30] = True
        map_[mask] = 0.9
    kind = "scratch" if defective else "good"
    known = mask if masked or not defective else None
    return ImageResult(f"{number}.png", kind, defective, score, threshold, map_, known, pixel_threshold=0.5)


def some_rows(threshold: float = 0.5) -> list[ImageResult]:
    good = [row(i, False, 0.1 + 0.05 * i, threshold=threshold) for i in range(10)]
    return good + [row(10 + i, True, 0.3 + 0.06 * i, threshold=threshold) for i in range(10)]


def test_the_promised_keys_hold_a_value_within_its_interval() -> None:
    result = evaluate_results(some_rows(), resamples=100).to_json()
    for key in KEYS:
        assert result[key]["low"] <= result[key]["value"] <= result[key]["high"], key
    assert result["pixel_ap"]["value"] == pytest.approx(1.0)
    assert set(result["kinds"]) == {"scratch"}


def test_escape_and_overkill_are_shares_at_the_threshold() -> None:
    result = evaluate_results(some_rows(threshold=0.5), resamples=10)
    assert result.values["escape"].value == pytest.approx(0.4)  # 0.30, 0.36, 0.42, 0.48 pass
    assert result.values["overkill"].value == pytest.approx(0.1)  # 0.55 is rejected


def test_without_a_threshold_escape_and_overkill_are_null() -> None:
    result = evaluate_results(some_rows(threshold=math.nan), resamples=10).to_json()
    assert result["escape"]["value"] is None
    assert result["overkill"]["value"] is None
    assert result["image_auroc"]["value"] is not None


def test_a_defective_image_without_a_mask_counts_for_detection_alone() -> None:
    rows = some_rows()
    with_mask = evaluate_results(rows, resamples=10)
    more = evaluate_results([*rows, row(99, True, 0.05, masked=False)], resamples=10)
    assert more.without_mask == 1
    assert more.values["image_auroc"].value < with_mask.values["image_auroc"].value
    assert more.values["pixel_ap"].value == with_mask.values["pixel_ap"].value


def small(map_: list[list[float]], mask: list[list[int]] | None, threshold: float = 0.5, **more: Any) -> ImageResult:
    """An image of a few pixels, defective where its mask marks something or there is none."""
    marked = None if mask is None else np.array(mask, bool)
    defective = marked is None or bool(marked.any())
    values = np.array(map_, np.float32)
    return ImageResult("a.png", "spot", defective, 0.5, 0.5, values, marked, pixel_threshold=threshold, **more)


def seg_f1(rows: list[ImageResult], protocol: str = "full") -> float | None:
    found: float | None = evaluate_results(rows, protocol, resamples=20).to_json()["seg_f1"]["value"]
    return found


# At 0.5 the defective image has 1 pixel found, 1 missed (0.5 does not exceed 0.5) and 1 false, the good one 2 false.
DEFECT = small([[0.9, 0.5, 0.6], [0.1, 0.2, 0.3]], [[1, 1, 0], [0, 0, 0]])
GOOD = small([[0.8, 0.7, 0.1], [0.1, 0.1, 0.1]], [[0, 0, 0], [0, 0, 0]])


def test_seg_f1_is_pixel_f1_over_all_images_at_the_given_threshold() -> None:
    assert seg_f1([DEFECT, GOOD]) == pytest.approx(2 / (2 + 3 + 1))
    assert seg_f1([DEFECT]) == pytest.approx(2 / (2 + 1 + 1)), "not the mean over images, nor the best threshold"
    moved = [replace(row, pixel_threshold=0.4) for row in (DEFECT, GOOD)]
    assert seg_f1(moved) == pytest.approx(4 / (4 + 3 + 0))
    with pytest.raises(AssertionError, match="one threshold"):
        seg_f1([moved[0], GOOD])


def test_seg_f1_counts_what_lies_inside_alone() -> None:
    inside = np.array([[1, 1, 0], [1, 1, 1]], bool)  # without the first's false pixel
    assert seg_f1([replace(DEFECT, inside=inside), GOOD]) == pytest.approx(2 / (2 + 2 + 1))


def test_seg_f1_is_exact_where_maps_have_more_values_than_bins() -> None:
    rng = np.random.default_rng(0)
    map_, mask = rng.random((300, 300), dtype=np.float32), rng.random((300, 300)) < 0.3
    limit = 0.7123456
    rows = [ImageResult("a.png", "spot", True, 0.5, 0.5, map_, mask, pixel_threshold=limit)]
    wanted = f1_score(mask.ravel(), (map_ > np.float32(limit)).ravel())
    assert seg_f1(rows) == pytest.approx(wanted, abs=1e-12)


def test_seg_f1_is_null_without_a_threshold_or_masks() -> None:
    assert seg_f1([replace(DEFECT, pixel_threshold=math.nan), replace(GOOD, pixel_threshold=math.nan)]) is None
    assert seg_f1([small([[0.9, 0.1]], None), GOOD]) is None
    result = evaluate_results([DEFECT, GOOD], resamples=20).to_json()
    assert result["pixel_threshold"] == 0.5
    assert result["seg_f1"]["low"] is None, "one image with a defect is too few for an interval"


def test_escape_and_overkill_at_another_threshold() -> None:
    found = at_overkill(some_rows(), 0.05, 0.42, supported=False)  # a score of just that passes
    assert found.to_json() == {
        "escape": pytest.approx(0.3), "overkill": pytest.approx(0.3), "threshold": 0.42, "supported": False
    }  # fmt: skip
    good = [one for one in some_rows() if not one.defective]
    assert at_overkill(good, 0.05, 0.42, supported=True).to_json()["escape"] is None


def test_one_class_alone_gives_null_not_a_crash() -> None:
    good = [one for one in some_rows() if not one.defective]
    result = evaluate_results(good, resamples=10).to_json()
    assert result["image_auroc"]["value"] is None
    assert result["pixel_ap"]["value"] is None
    assert result["overkill"]["value"] == pytest.approx(0.1)


def test_one_seed_gives_one_interval() -> None:
    first, second = (evaluate_results(some_rows(), resamples=50, seed=3).to_json() for _ in range(2))
    assert first == second


def test_protocol_authors_leaves_a_border_out() -> None:
    rows = [row(0, False, 0.1), row(1, True, 0.9)]
    rows[0].map[:2] = 1.0  # false pixels in the border only
    assert evaluate_results(rows, "full", resamples=10).values["pixel_ap"].value < 0.9
    assert evaluate_results(rows, "authors", resamples=10).values["pixel_ap"].value == pytest.approx(1.0)
    assert seg_f1(rows) == pytest.approx(200 / (200 + 128))
    assert seg_f1(rows, "authors") == pytest.approx(1.0)


def test_files_hold_a_row_an_image_and_valid_json(tmp_path: Path) -> None:
    rows = some_rows()
    write_evaluation(tmp_path, evaluate_results(rows, resamples=10), rows)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(KEYS) <= set(metrics)
    with (tmp_path / "images.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["image"] for line in table] == [one.image for one in rows]
    wrong = [line["image"] for line in table if line["correct"] == "false"]
    assert len(wrong) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "images.csv"}


def test_a_map_is_measured_at_the_size_of_its_mask() -> None:
    rng = np.random.default_rng(0)
    rows, maps, masks = [], [], []
    for number in range(4):
        small_map, mask = rng.random((16, 24), dtype=np.float32), np.zeros((61, 95), bool)
        if number % 2:
            mask[30, 10:80] = True  # a line that nearest neighbour at 16 rows would lose
        whole = np.clip(resize_map(small_map, 61, 95), 0, 1)

        rows.append(
            ImageResult(f"{number}", "line", bool(number % 2), 0.5, 0.5, small_map, RunMask.of(mask), None, 0.6)
        )
        maps.append(whole.ravel())
        masks.append(mask.ravel())
    found = evaluate_results(rows, resamples=5).values
    truth, values = np.concatenate(masks), np.concatenate(maps)
    assert found["pixel_auroc"].value == pytest.approx(roc_auc_score(truth, values), abs=2e-3)
    assert found["pixel_ap"].value == pytest.approx(average_precision_score(truth, values), abs=2e-3)
    assert found["seg_f1"].value == pytest.approx(f1_score(truth, values > np.float32(0.6)))


def test_masks_by_way_of_jpeg_give_a_perfect_map_the_same_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for quality in (None, 50, 75, 95):
        rows = []
        for number in range(6):
            drawn = Pillow.new("L", (128, 128))
            x, y = rng.integers(20, 80, 2).tolist()
            if number % 2:
                ImageDraw.Draw(drawn).line((x, y, x + 35, y + int(rng.integers(-15, 15))), 255, 3)
            truth = np.asarray(drawn) > 0
            if quality is not None:
                drawn.save(tmp_path / "mask.jpg", quality=quality)
                drawn = Pillow.open(tmp_path / "mask.jpg")
            drawn.save(tmp_path / "mask.png")
            mask, score = read_mask(tmp_path / "mask.png", truth.shape), float(number % 2)
            rows.append(ImageResult(f"{number}", "line", bool(number % 2), score, 0.5, truth.astype(np.float32), mask))
        found = evaluate_results(rows, resamples=5).values
        for name in ("pixel_auroc", "pixel_ap", "aupro"):
            assert found[name].value == pytest.approx(1, abs=0.01), (quality, name)


def test_a_defect_that_is_marked_nowhere_is_left_out_of_localization_but_by_other_protocols() -> None:
    rows = [row(number, number % 2 == 0, number / 10) for number in range(8)]
    nowhere = ImageResult(
        "x", "spot", True, 0.9, 0.5, np.ones((64, 64), np.float32), np.zeros((64, 64), bool), None, 0.5
    )
    before, full = (evaluate_results(some, resamples=5) for some in (rows, [*rows, nowhere]))
    assert full.empty_mask == 1
    for name in ("pixel_auroc", "pixel_ap", "aupro", "seg_f1"):
        assert full.values[name].value == before.values[name].value
    assert full.values["image_auroc"].value != before.values["image_auroc"].value
    assert evaluate_results([*rows, nowhere], "network", resamples=5).values["pixel_ap"].value != pytest.approx(
        full.values["pixel_ap"].value
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mask_kept_by_its_changes_is_the_same(share: float) -> None:
    mask = np.random.default_rng(1).random((7, 9)) < share
    kept = RunMask.of(mask)
    assert np.array_equal(kept.full(), mask) and kept.any() == mask.any()
    assert np.array_equal(RunMask.none((3, 4)).full(), np.zeros((3, 4), bool))
