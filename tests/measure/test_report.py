"""The report page stands alone, escapes what it is given, and says which verdicts are wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from flawmap.data.images import encode_jpeg, encode_png
from flawmap.measure.evaluate import ImageResult, at_overkill, evaluate_results
from flawmap.measure.exchangeability import compare_good
from flawmap.measure.report import ReportImage, data_uri, render_report
from flawmap.measure.threshold import choose_threshold

PICTURE = encode_jpeg(np.zeros((8, 8, 3), np.uint8))


def part(name: str, verdict: str, truth: bool | None, score: float = 0.4) -> ReportImage:
    return ReportImage(name, verdict, [("image", PICTURE), ("map", PICTURE)], score, 0.5, truth, "scratch")


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render_report("A lot", [part("a.png", "good", False)], scores=[(0.4, False), (0.8, True)])
    assert "<script" not in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert page.count("data:image/jpeg;base64,") == 2


def test_hostile_names_are_escaped() -> None:
    page = render_report("<b>lot</b>", [part("<script>alert(1)</script>.png", "good", None)])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>lot</b>" not in page


def test_wrong_verdicts_are_named() -> None:
    assert part("a", "good", True).wrong == "missed"
    assert part("a", "defective", False).wrong == "false alarm"
    assert part("a", "defective", True).wrong == ""
    assert part("a", "good", None).wrong == ""
    assert part("a", "no threshold", True).wrong == ""
    assert "missed" in render_report("lot", [part("a", "good", True)]).lower()


def test_escape_at_other_overkills_is_a_row_each() -> None:
    rows = [ImageResult(f"{i}", "spot", i > 3, i / 10, 0.5, np.zeros((1, 1)), None) for i in range(8)]
    found = evaluate_results(rows, resamples=5)
    page = render_report("lot", [], found)
    assert "At thresholds set from good photos" not in page
    page = render_report("lot", [], replace(found, escape_at=(at_overkill(rows, 0.02, 0.25, False),)))
    row = re.search(r"<tr><td>2 %</td>.*", page)
    assert row is not None
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row[0]) == ["2 %", "0.0 %", "25.0 %", "0.250", "too few"]


def test_good_parts_that_are_unlike_the_photos_are_told() -> None:
    found = evaluate_results(
        [ImageResult(f"{i}", "spot", i > 20, 0.6, 0.5, np.zeros((1, 1)), None) for i in range(24)], resamples=5
    )
    photos = [i / 100 for i in range(52)]
    limit = choose_threshold(photos, photos, 0.05)
    told = replace(found, good_parts=compare_good([0.6] * 21, photos, limit))
    assert "21 of 21 good parts score above the threshold (5 % were promised): they are unlike" in render_report(
        "lot", [], told
    )
    quiet = replace(found, good_parts=compare_good(photos[::4], photos, limit))
    assert 'class="card warning"' not in render_report("lot", [], quiet)


def test_a_page_without_images_can_be_drawn() -> None:
    assert "Nothing" in render_report("Nothing", [])


def test_pictures_keep_their_kind() -> None:
    assert data_uri(PICTURE).startswith("data:image/jpeg")
    assert data_uri(encode_png(np.zeros((4, 4), np.uint8))).startswith("data:image/png")
