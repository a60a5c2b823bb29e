"""Evaluation of inspected images: keys, intervals, what is left out, files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flawmap.measure.evaluate import ImageResult, evaluate_results, write_evaluation

KEYS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "f1_max", "escape", "overkill")


def row(number: int, defective: bool, score: float, *, threshold: float = 0.5, masked: bool = True) -> ImageResult:
    map_ = np.random.default_rng(number).random((64, 64), dtype=np.float32) * 0.2
    mask = np.zeros((64, 64), bool)
    if defective:
        mask[20:30, 20:30] = True
        map_[mask] = 0.9
    kind = "scratch" if defective else "good"
    known = mask if masked or not defective else None
    return ImageResult(f"{number}.png", kind, defective, score, threshold, map_, known)


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
