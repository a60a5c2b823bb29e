"""What a user gets of one image, as a picture, as a file, as figures, and in a notebook."""

from __future__ import annotations

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flawmap
from flawmap.data.images import encode_png, read_pixels, write_image
from flawmap.deploy.inspector import Inspection
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.scores import find_regions

PHOTO = np.full((60, 80, 3), (200, 120, 40), np.uint8)


def found(photo: Any = PHOTO, side: int = 10, name: str = "part.png") -> Inspection:
    """A part of one colour with a square defect at x 30, y 20."""
    map_ = np.zeros(photo.shape[:2], np.float32)
    map_[20 : 20 + side, 30 : 30 + side] = 0.75
    small = np.zeros((32, 32, 3), np.float32)
    regions = find_regions(map_, 0.5)
    return Inspection(
        map_, 0.7, 0.5, True, regions, map_, small, small, small + 1, p_value=0.01, photo=photo, name=name
    )


def test_the_overlay_outlines_the_regions_on_the_photo() -> None:
    drawn = found().overlay(heat=False)
    assert drawn.shape == PHOTO.shape and drawn.dtype == np.uint8
    assert (drawn[:15] == PHOTO[:15]).all() and (drawn[24:26, 34:36] == PHOTO[0, 0]).all(), "clear but for the outline"
    assert (np.abs(drawn[20, 31:39].astype(int) - (0, 230, 255)) < 40).all(), "a bright line along its upper edge"
    assert not (found().overlay()[24:26, 34:36] == PHOTO[0, 0]).all(), "heat lies over the defect"


def test_the_overlay_is_bgr_or_rgb() -> None:
    assert np.array_equal(found().overlay(order="rgb"), found().overlay()[:, :, ::-1])
    with pytest.raises(ConfigError, match="there are: bgr, rgb"):
        found().overlay(order="RGB")


def test_without_the_photo_what_the_network_saw_is_shown() -> None:
    seen = dataclasses.replace(found(), photo=None)
    assert seen.overlay().shape == PHOTO.shape and (seen.overlay()[:10] == 0).all()


def test_the_figures_are_json_with_the_keys_of_results_jsonl() -> None:
    told = json.loads(json.dumps(found().to_dict(), allow_nan=False))
    assert {"image", "score", "threshold", "defective", "p_value", "regions"} <= set(told)
    assert (told["image"], told["width"], told["height"], told["defective"]) == ("part.png", 80, 60, True)
    assert told["regions"][0]["box"] == [30, 20, 10, 10]
    unjudged = dataclasses.replace(found(), threshold=None, defective=None, p_value=None, regions=[])
    assert json.loads(json.dumps(unjudged.to_dict()))["defective"] is None


@pytest.mark.parametrize("form", [str, Path])
def test_it_is_saved_as_picture_figures_or_page(form: Any, tmp_path: Path) -> None:
    assert found().save(form(tmp_path / "found.png")) == tmp_path / "found.png"
    assert np.array_equal(read_pixels(tmp_path / "found.png"), found().overlay())
    found().save(form(tmp_path / "clear.JPG"), heat=False)
    found().save(form(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == found().to_dict()
    found().save(form(tmp_path / "found.html"))
    assert "<!doctype html>" in (tmp_path / "found.html").read_text()
    assert len(list(tmp_path.iterdir())) == 4, "nothing besides"


@pytest.mark.parametrize("name", ["found.pdf", "found", "no/such/folder/found.png", "no/such/folder/found.json"])
def test_what_cannot_be_saved_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as raised:
        found().save(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_its_text_is_one_short_line() -> None:
    assert repr(found()) == "<Inspection defective: score 0.700, threshold 0.500, 1 region, 80x60 pixels>"


def test_the_house_words_are_there_beside_todays() -> None:
    part = found()
    assert part.object_reconstruction is part.object_image and part.general_reconstruction is part.general_image
    assert part.valid_mask is part.inside
    assert "general_image" in {field.name for field in dataclasses.fields(flawmap.Inspection)}


def test_a_name_is_escaped_in_the_page() -> None:
    assert "<script>" not in found(name="<script>.png")._repr_html_()


def test_a_thin_defect_on_a_large_photo_is_seen_in_the_small_map() -> None:
    large = found(np.full((2000, 3000, 3), 90, np.uint8), side=3)
    page = large._repr_html_()
    assert len(page) < 300_000
    from flawmap.deploy.inspection import _shrunk

    assert _shrunk(large.map, 320, 480).max() > 0.4


@pytest.mark.parametrize(
    "photo",
    [
        PHOTO.astype(np.uint16) * 257,
        (PHOTO / 255).astype(np.float32),
        np.broadcast_to(PHOTO[:, :, :1], PHOTO.shape),
        PHOTO[:1, :40],
        PHOTO[:, :1],
    ],
)
def test_every_kind_of_photo_has_a_picture(photo: Any) -> None:
    map_ = np.zeros(photo.shape[:2], np.float32)
    small = np.zeros((32, 32, 3), np.float32)
    part = Inspection(map_, 0.2, 0.5, False, [], map_, small, small, small, photo=photo)
    assert np.abs(part.overlay().astype(int) - PHOTO[: photo.shape[0], : photo.shape[1]].astype(int))[..., 0].max() <= 1
    assert "good" in part._repr_html_()


def in_chromium(page_file: Path) -> tuple[list[str], list[list[Any]], str]:
    """What a page asks for, its images (complete, width, height) and its text, in Debian's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        asked: list[str] = []
        page = browser.new_page(viewport={"width": 900, "height": 500})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        sizes = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])")
        text = page.inner_text("body")
        page.screenshot(path=str(page_file.with_suffix(".png")))
        browser.close()
    return asked, sizes, text


def test_a_notebook_cell_shows_verdict_photo_map_and_regions(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api")
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset=utf-8>{found()._repr_html_()}")
    if shutil.which("chromium") is None:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    with ThreadPoolExecutor(1) as thread:  # in this one a browser of other tests may be open
        asked, sizes, text = thread.submit(in_chromium, tmp_path / "cell.html").result()
    assert sizes == [[True, 80, 60], [True, 80, 60]]
    assert "part.png: defective, score 0.700, threshold 0.500" in text and "30\t20\t10\t10\t100\t0.750" in text
    assert not [url for url in asked if not url.startswith(("file:", "data:"))], "nothing is loaded from elsewhere"


def test_every_form_of_an_image_is_inspected_alike(trained: Path, metal: Path) -> None:
    inspector = flawmap.load(str(trained), "cpu")
    file = sorted((metal / "test").rglob("*.png"))[0]
    expected = inspector.inspect(file)
    bgr = np.array(read_pixels(file))
    rgb = np.ascontiguousarray(bgr[:, :, ::-1])
    with Image.open(file) as opened:
        forms = [
            inspector.inspect(str(file)),
            inspector.inspect(file.read_bytes()),
            inspector.inspect(opened),
            inspector.inspect(bgr),
            inspector.inspect(rgb, order="rgb"),
            inspector.inspect(torch.from_numpy(rgb).permute(2, 0, 1), order="rgb"),
        ]
    assert [each.score for each in forms] == [expected.score] * 6
    assert [each.name for each in forms[:3]] == [str(file), "image", str(file)]
    several = list(inspector.inspect_many([rgb, rgb], order="rgb"))
    assert [each.score for each in several] == pytest.approx([expected.score] * 2, abs=1e-6)  # type: ignore[union-attr]
    with pytest.raises(ImageError, match="give a list"):
        inspector.inspect_many(str(file))


def test_the_photo_kept_is_not_the_camera_s_buffer(trained: Path) -> None:
    inspector = flawmap.load(trained, "cpu")
    buffer = np.full((64, 64, 3), 90, np.uint8)
    first = inspector.inspect(buffer)
    second = next(inspector.inspect_many([buffer]))
    buffer[:] = 0
    assert first.photo is not None and (first.photo == 90).all()
    assert isinstance(second, Inspection) and second.photo is not None and (second.photo == 90).all()


def test_a_grey_array_is_inspected_as_its_file(trained: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (70, 64), dtype=np.uint8)
    write_image(tmp_path / "grey.png", grey)
    inspector = flawmap.load(trained, "cpu")
    assert inspector.inspect(grey).score == inspector.inspect(tmp_path / "grey.png").score
    assert inspector.inspect(encode_png(grey)).score == inspector.inspect(grey).score
