"""Inspecting large images with a bundle: files, regions, reports, evaluation, memory."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli
from flawmap.bundle import Bundle, build, load_bundle, save_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import draw_defective, draw_good
from flawmap.deploy.batch import inspect_to_folder
from flawmap.deploy.evaluation import evaluate
from flawmap.deploy.inspector import Inspection, Inspector
from flawmap.deploy.runtimes import TorchRuntime
from flawmap.errors import BundleError, ImageError
from flawmap.measure.threshold import choose_threshold
from flawmap.model.dsr import DSR, ScoreRule, image_score

TINY = Path(__file__).parents[1] / "tiny.toml"
RIGHT = "[[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]"


def recipe(*settings: str) -> Recipe:
    return load_recipe(TINY, ["image.policy=tile", *settings])


def bundle(chosen: Recipe, score: float = 0.0, pixel: float = 0.5, ignore: Any = None) -> Bundle:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(chosen.model, with_refinement=True).eval()
    threshold = dataclasses.replace(choose_threshold([0.1] * 20, [0.1] * 20, 0.1), score=score, pixel=pixel)
    return Bundle(model=model, recipe=chosen, threshold=threshold, provenance={}, ignore=ignore)


class Bright(torch.nn.Module):
    """Stands in for a trained DSR: its map is how far a pixel is above grey."""

    def __init__(self, model: DSR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        map_ = ((images.amax(1) - 0.5) * 2).clamp(0, 1)
        result = self.model(images)
        return result._replace(map=map_, detection_map=map_, score=image_score(map_))


def bright(chosen: Recipe, **facts: Any) -> Inspector:
    opened = bundle(chosen, **facts)
    return Inspector(opened, runtime=TorchRuntime(Bright(opened.model), "cpu"))  # type: ignore[arg-type]


def part(height: int = 200, width: int = 300) -> np.ndarray:
    """Grey, with a bright spot on the left and a less bright one on the right."""
    pixels = np.full((height, width, 3), 100, np.uint8)
    pixels[50:80, 40:70] = 250
    pixels[120:150, 220:260] = 200
    return pixels


def test_map_regions_and_score_are_of_the_whole_image() -> None:
    found = bright(recipe()).inspect(part())
    assert found.map.shape == found.network_map.shape == (200, 300)
    assert found.map is found.network_map, "one map in memory, not two"
    assert [region.box for region in found.regions] == [(40, 50, 30, 30), (220, 120, 40, 30)]
    assert found.score == pytest.approx((250 / 255 - 0.5) * 2, abs=1e-5)
    assert found.inside is None


def test_scaled_images_have_their_regions_in_their_own_pixels() -> None:
    found = bright(recipe("image.scale=0.5")).inspect(part())
    assert found.network_map.shape == (100, 150)
    assert found.map.shape == (200, 300)
    boxes = np.array([region.box for region in found.regions])
    assert np.abs(boxes - [(40, 50, 30, 30), (220, 120, 40, 30)]).max() <= 2


@pytest.mark.parametrize("policy", ["tile", "resize"])
def test_what_lies_outside_the_scope_raises_no_alarm(policy: str) -> None:
    whole = bright(recipe(f"image.policy={policy}")).inspect(part())
    assert whole.map[65, 55] > 0.8
    assert [region.box[0] < 150 for region in whole.regions] == [True, False]
    scoped = recipe(f"image.include={RIGHT}", f"image.policy={policy}")
    found = bright(scoped, score=whole.score - 0.01).inspect(part())
    assert found.score < whole.score - 0.01, "the brighter spot is on the left"
    assert found.defective is False
    assert len(found.regions) == 1 and found.regions[0].box[0] >= 150
    assert (found.map[:, :150] == 0).all() and (found.network_map[:, : found.network_map.shape[1] // 2] == 0).all()
    assert np.array_equal(found.map[:, 160:], whole.map[:, 160:])


def test_policy_resize_without_scope_gives_the_models_own_score() -> None:
    inspector = Inspector(bundle(recipe("image.policy=resize")), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        result = inspector.bundle.model(image.to(memory_format=torch.channels_last))
    found = inspector.inspect(pixels)
    assert found.score == float(result.score)
    assert np.array_equal(found.network_map, result.map[0].numpy())


@pytest.mark.parametrize("policy", ["tile", "resize"])
@pytest.mark.parametrize("where", ["image.include=[]", "image.include=[[[0, 0], [1, 0], [1, 1], [0, 1]]]"])
@pytest.mark.parametrize("square", [True, False])
def test_how_a_map_is_scored_holds_on_every_path(policy: str, where: str, square: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores = []
    for side in (1, 5, 21):
        how = f"image.policy={policy}", f"model.score_side={side}" if square else f"model.score_pixels={side**2}", where
        inspector = Inspector(bundle(recipe(*how)), device="cpu")
        found = inspector.inspect(pixels)
        image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        with torch.inference_mode():
            result = inspector.bundle.model(image.to(memory_format=torch.channels_last))
        wanted = float(image_score(result.detection_map, ScoreRule(side, 0 if square else side**2)))
        assert found.score == pytest.approx(wanted, abs=1e-6)
        scores.append(found.score)
    assert scores[0] > scores[1] > scores[2]


def test_an_image_of_one_tile_is_inspected_as_by_resize() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tiled, resized = (
        Inspector(bundle(recipe(f"image.policy={policy}")), device="cpu").inspect(pixels)
        for policy in ("tile", "resize")
    )
    assert np.abs(tiled.map - resized.map).max() < 1e-6
    assert tiled.score == pytest.approx(resized.score, abs=1e-6)
    assert np.abs(tiled.object_image - resized.object_image).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (63, 64), (40, 30)])
def test_an_image_smaller_than_a_tile_is_filled_up_by_its_mirror(shape: tuple[int, int]) -> None:
    found = Inspector(bundle(recipe()), device="cpu").inspect(np.full((*shape, 3), 80, np.uint8))
    assert found.map.shape == shape
    assert np.isfinite(found.map).all()


def test_ignore_mask_of_another_size_is_named_in_one_line(tmp_path: Path) -> None:
    inspector = bright(recipe(), ignore=np.zeros((200, 300), np.bool_))
    write_image(tmp_path / "odd.png", part(100, 100))
    write_image(tmp_path / "part.png", part())
    with pytest.raises(ImageError, match=r"odd\.png: the image is 100x100 pixels but the ignore mask 300x200"):
        inspector.inspect(tmp_path / "odd.png")
    rows = list(inspect_to_folder(inspector, [tmp_path / "odd.png", tmp_path / "part.png"], tmp_path / "found"))
    assert "odd.png" in rows[0].error and not rows[1].error


def test_a_bundle_keeps_its_ignore_mask(tmp_path: Path) -> None:
    ignore = np.zeros((200, 300), np.bool_)
    ignore[40:90, 30:80] = True
    save_bundle(bundle(recipe(), ignore=ignore), tmp_path / "part.bundle")
    loaded = load_bundle(tmp_path / "part.bundle")
    assert loaded.ignore is not None and np.array_equal(loaded.ignore, ignore)
    inspector = Inspector(loaded, device="cpu")
    assert (inspector.inspect(part()).map[ignore] == 0).all()
    write_image(tmp_path / "part.bundle" / "ignore.png", np.zeros((200, 300), np.uint8))
    with pytest.raises(BundleError, match=r"ignore\.png"):
        load_bundle(tmp_path / "part.bundle")
    (tmp_path / "part.bundle" / "ignore.png").unlink()
    with pytest.raises(BundleError, match=r"ignore\.png"):
        load_bundle(tmp_path / "part.bundle")


@pytest.mark.parametrize(("detail", "drawn"), [(None, True), (0.8, True), (0.12, False)])
def test_a_report_shows_reconstructions_that_keep_detail(detail: float | None, drawn: bool, tmp_path: Path) -> None:
    write_image(tmp_path / "part.png", np.full((64, 64, 3), 100, np.uint8))
    inspector = bright(recipe("image.height=64", "image.width=64"), score=0.3)
    if detail is not None:
        inspector.bundle.provenance["reconstruction_detail"] = detail
    list(inspect_to_folder(inspector, [tmp_path / "part.png"], tmp_path / "found"))
    page = (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    assert ("as a good part" in page) is drawn
    assert ("of good photos&#39; detail the object-specific one keeps a correlation of 0.12" in page) is not drawn


def test_folder_of_results_has_maps_of_the_images_size_and_small_pictures(tmp_path: Path) -> None:
    pixels = np.full((700, 1100, 3), 100, np.uint8)
    pixels[600:640, 1000:1040] = 250
    write_image(tmp_path / "large.png", pixels)
    (row,) = inspect_to_folder(
        bright(recipe("image.height=128", "image.width=256"), score=0.3), [tmp_path / "large.png"], tmp_path / "found"
    )
    assert [region.box for region in row.regions] == [(1000, 600, 40, 40)]
    assert read_image(tmp_path / "found" / row.map).shape == (700, 1100, 3)
    overlay = read_image(tmp_path / "found" / row.overlay)
    assert overlay.shape == (700, 1100, 3)
    assert overlay[10, 10] == pytest.approx(100 / 255, abs=0.01)
    record = json.loads((tmp_path / "found" / "results.jsonl").read_text())
    assert record["regions"][0]["box"] == [1000, 600, 40, 40]
    assert (tmp_path / "found" / "report.html").stat().st_size < 300_000


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Test images of 150 x 200: the defect on the right is found, that on the left is not in every scope."""
    root = tmp_path / "parts"
    for folder in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / folder).mkdir(parents=True)
    good = np.full((150, 200, 3), 100, np.uint8)
    good[30:60, 20:60] = 160  # bright by nature, on the left
    bad, mask = good.copy(), np.zeros((150, 200), np.uint8)
    bad[80:120, 120:160], mask[80:120, 120:160] = 240, 255
    for number in range(3):
        write_image(root / f"train/good/{number}.png", good)
        write_image(root / f"test/good/{number}.png", good)
        write_image(root / f"test/spot/{number}.png", bad)
        write_image(root / f"ground_truth/spot/{number}_mask.png", mask)
    return root


def test_evaluation_of_tiles_measures_the_scope_alone(data_set: Path, tmp_path: Path) -> None:
    listing = read_layout(data_set)
    whole = evaluate(bright(recipe(), score=0.5), listing, tmp_path / "whole")
    assert whole.values["image_auroc"].value == 1.0
    assert whole.values["pixel_ap"].value == pytest.approx(1.0)
    assert (tmp_path / "whole" / "report.html").exists()
    left = evaluate(bright(recipe("image.include=[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"), score=0.5), listing)
    assert np.isnan(left.values["pixel_ap"].value), "no defect lies in the scope"
    # The defect covers 1600 of 15000 pixels on the right, and all others there are 0: counted with the left half,
    # whose pixels are 0 as well, the best F1 would not change, but the share of good pixels above any score would.
    right = evaluate(bright(recipe(f"image.include={RIGHT}"), score=0.5), listing)
    assert right.values["pixel_ap"].value == pytest.approx(1.0)


def test_pixels_outside_the_scope_are_not_counted_as_good_ones() -> None:
    from flawmap.measure.evaluate import ImageResult, evaluate_results

    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        map_ = rng.random((40, 60)).astype(np.float32)
        mask = np.zeros((40, 60), np.bool_)
        mask[10:20, 35:45] = number < 2
        inside = np.zeros((40, 60), np.bool_)
        inside[:, 30:] = True
        rows.append((ImageResult("a", "spot", number < 2, number / 4, np.nan, map_ * inside, mask, inside), map_, mask))
    scoped = evaluate_results([row for row, _, _ in rows], resamples=20)
    cropped = evaluate_results(
        [dataclasses.replace(row, map=map_[:, 30:], mask=mask[:, 30:], inside=None) for row, map_, mask in rows],
        resamples=20,
    )
    for name in ("pixel_auroc", "pixel_ap", "aupro"):
        assert scoped.values[name] == cropped.values[name]
    assert scoped.values["pixel_auroc"].value < 0.7, "counting the zeros outside as good pixels would give about 0.75"


def test_maps_under_evaluation_are_not_kept_in_memory(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flawmap.deploy import evaluation

    kept: list[Any] = []
    measure = evaluation.evaluate_results
    monkeypatch.setattr(
        evaluation, "evaluate_results", lambda rows, protocol: kept.extend(rows) or measure(rows, protocol)
    )
    evaluate(bright(recipe()), read_layout(data_set))
    assert len(kept) == 6
    assert all(not row.map.flags.writeable and not row.map.flags.owndata for row in kept)
    assert kept[0].map.max() == pytest.approx((160 / 255 - 0.5) * 2, abs=1e-6)


def test_the_command_inspects_large_images(data_set: Path, tmp_path: Path) -> None:
    save_bundle(bundle(recipe(f"image.include={RIGHT}")), tmp_path / "part.bundle")
    arguments = ["inspect", str(tmp_path / "part.bundle"), str(data_set / "test"), "--out", str(tmp_path / "found")]
    result = CliRunner().invoke(cli.app, [*arguments, "--batch", "4"])
    assert result.exit_code == 0, result.output
    with (tmp_path / "found" / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 6
    result = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path / "part.bundle"), str(data_set)])
    assert result.exit_code == 0, result.output


PROGRAM = """
import resource, sys
import numpy as np
from pathlib import Path
from flawmap.deploy.batch import inspect_to_folder
from flawmap.deploy.inspector import load
inspector = load(sys.argv[1], device="cpu", threads=1)
list(inspect_to_folder(inspector, [Path(sys.argv[2])], Path(sys.argv[4])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(row,) = inspect_to_folder(inspector, [Path(sys.argv[3])], Path(sys.argv[5]))
assert not row.error, row.error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_large_surface_is_inspected_in_bounded_memory(tmp_path: Path) -> None:
    """3000 x 2000 pixels from file to report: what it takes more than a small image is a few bytes a pixel."""
    rng = np.random.default_rng(0)
    whole = draw_good("brushed-metal", 512, rng)
    defective, mask = draw_defective("brushed-metal", "stain", 512, np.random.default_rng(1))
    large = np.tile(whole, (4, 6, 1))[:2000, :3000]
    large[800:1312, 1700:2212] = defective
    write_image(tmp_path / "large.png", (large * 255 + 0.5).astype(np.uint8))
    write_image(tmp_path / "small.png", (whole * 255 + 0.5).astype(np.uint8))
    assert mask.any()
    save_bundle(bundle(recipe("image.height=512", "image.width=512"), pixel=0.99), tmp_path / "part.bundle")
    names = [str(tmp_path / name) for name in ("part.bundle", "small.png", "large.png", "a", "b")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    more = float(done.stdout)
    # Image 18 MB, file up to 18 MB, map 24 MB, its 8-bit form 6 MB and overlay 18 MB; as float32 copies of the image
    # alone would take 72 MB each.
    assert more < 100


def test_inspections_hold_no_pictures_of_the_images_size() -> None:
    found = bright(recipe("image.height=256", "image.width=256")).inspect(np.full((1200, 1600, 3), 90, np.uint8))
    assert isinstance(found, Inspection)
    held = sum(each.nbytes for each in (found.input_image, found.object_image, found.general_image))
    assert held <= 3 * 512 * 512 * 12
