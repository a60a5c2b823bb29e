"""The report page stands alone, escapes what it is given, and says which verdicts are wrong."""

from __future__ import annotations

import re

import numpy as np

from flawmap.data.images import encode_jpeg, encode_png
from flawmap.measure.report import ReportImage, data_uri, render_report

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


def test_a_page_without_images_can_be_drawn() -> None:
    assert "Nothing" in render_report("Nothing", [])


def test_pictures_keep_their_kind() -> None:
    assert data_uri(PICTURE).startswith("data:image/jpeg")
    assert data_uri(encode_png(np.zeros((4, 4), np.uint8))).startswith("data:image/png")
