from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli
from flawmap.bundle import Bundle, build, save_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.surfaces import draw_defective
from flawmap.deploy.explain import code_change, explain, write_picture, write_sheet
from flawmap.deploy.inspector import Inspector
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.picture import PLOT, Panel, compose, score_plot
from flawmap.measure.threshold import choose_threshold
from flawmap.model.codebook import Codebook

TINY = Path(__file__).parents[1] / "tiny.toml"
GOOD = [0.05 * number for number in range(1, 10)]


def bundle_of(*settings: str) -> Bundle:
    recipe: Recipe = load_recipe(TINY, ["refine.steps=0", *settings])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        model = build(recipe.model, with_refinement=False).eval()
        model.detection.out.weight.mul_(40)  # untrained, it sees little
    limit = dataclasses.replace(choose_threshold(GOOD, GOOD, 0.1), score=0.3, pixel=0.6)
    return Bundle(model, recipe, limit, {"held_out_scores": GOOD, "seed": 5, "created": "2026-01-01"})


@pytest.fixture
def part(tmp_path: Path) -> Path:
    image, _ = draw_defective("brushed-metal", "crack", 96, np.random.default_rng(3))
    write_image(tmp_path / "part.png", np.rint(255 * image).astype(np.uint8))
    return tmp_path / "part.png"


FAMILIAR = "model.familiarity=['encoder','local','detection']"


def test_every_step_is_shown_in_the_order_of_the_network(part: Path) -> None:
    bundle = bundle_of(FAMILIAR)
    found = explain(Inspector(bundle, "cpu"), part)
    assert [panel.caption for panel in found.panels] == [
        "what the network sees", "drawn as it is", "drawn as a good part", "coarse codes changed", "fine codes changed",
        "detection's map", "unlike good photos: encoder", "unlike good photos: levelled",
        "unlike good photos: detection", "map", "regions",
    ]  # fmt: skip
    assert {panel.pixels.shape for panel in found.panels} == {(64, 64, 3)}
    plain = explain(Inspector(bundle_of(), "cpu"), part)
    assert [panel.caption for panel in plain.panels][-3:] == ["detection's map", "map", "regions"]


def test_an_explanation_says_what_the_inspection_found(part: Path) -> None:
    inspector = Inspector(bundle_of(FAMILIAR), "cpu")
    inspection = inspector.inspect(part)
    found = explain(inspector, part)
    assert found.score == inspection.score
    assert found.verdict == ("defective" if inspection.defective else "good")
    assert found.regions == inspection.regions
    above = sum(score < inspection.score for score in GOOD)
    assert found.facts["among good parts"].startswith(f"higher than {above} of 9; p-value ")
    model = inspector.bundle.model
    with torch.inference_mode():
        result = model(torch.from_numpy(inspection.input_image.transpose(2, 0, 1).copy())[None])
        fine = (model.discrete.fine_codebook.nearest(result.fine_restricted) != result.fine_indices).sum()
        coarse = (model.discrete.coarse_codebook.nearest(result.coarse_restricted) != result.coarse_indices).sum()
    assert found.facts["codes changed"] == f"{int(coarse)} of 64 coarse, {int(fine)} of 256 fine"


def test_a_change_of_code_is_measured_by_the_spread_of_the_codebook() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codebook = Codebook(500, 6)
        codebook.vectors.mul_(torch.tensor([3.0, 1, 1, 1, 0.1, 0]))
        first, second = (codebook.vectors[torch.randint(500, (40, 40))].permute(2, 0, 1)[None] for _ in range(2))
    assert torch.equal(code_change(codebook, first, first), torch.zeros(1, 40, 40))
    change = code_change(codebook, first, second)
    assert float(change.square().mean()) == pytest.approx(1, rel=0.1)


def test_of_a_large_image_the_window_around_the_peak_is_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = np.full((300, 420, 3), 120, np.uint8)
    large[210:240, 350:380] = rng.integers(0, 255, (30, 30, 3))
    write_image(tmp_path / "large.png", large)
    inspector = Inspector(bundle_of("image.policy=tile"), "cpu")
    inspection = inspector.inspect(tmp_path / "large.png")
    found = explain(inspector, tmp_path / "large.png")
    left, top = (int(number) for number in re.findall(r"x (\d+), y (\d+)", found.facts["shown"])[0])
    row, column = np.unravel_index(inspection.map.argmax(), inspection.map.shape)
    assert top <= row < top + 64
    assert left <= column < left + 64
    assert np.array_equal(found.panels[0].pixels, large[top : top + 64, left : left + 64])


def test_an_image_smaller_than_a_tile_can_be_explained(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    found = explain(Inspector(bundle_of("image.policy=tile"), "cpu"), tmp_path / "small.png")
    assert {panel.pixels.shape for panel in found.panels} == {(64, 64, 3)}


def test_the_picture_and_the_sheet_are_whole(part: Path, tmp_path: Path) -> None:
    bundle = bundle_of(FAMILIAR)
    save_bundle(bundle, tmp_path / "part.bundle")
    found = explain(Inspector(bundle, "cpu"), part, tmp_path / "part.bundle")
    write_picture(found, tmp_path / "steps.png")
    assert read_image(tmp_path / "steps.png").shape[1] > 4 * 256
    write_sheet(found, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg") == len(found.panels) + 1
    assert "http" not in page
    assert found.sha256 in page
    assert "SHA-256 of its weights" in page


def test_explain_writes_by_the_suffix_and_refuses_what_it_cannot(
    part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_bundle(bundle_of(), tmp_path / "part.bundle")
    runner = CliRunner()
    assert runner.invoke(cli.app, ["explain", "part.bundle", "part.png"]).exit_code == 0
    assert (tmp_path / "part-explained.png").exists()
    again = runner.invoke(cli.app, ["explain", "part.bundle", "part.png"])
    assert again.exit_code == 2
    assert "exists; choose another --out" in again.stderr
    assert runner.invoke(cli.app, ["explain", "part.bundle", "part.png", "--out", "sheet.html"]).exit_code == 0
    wrong = runner.invoke(cli.app, ["explain", "part.bundle", "part.png", "--out", "sheet.pdf"])
    assert wrong.exit_code == 2
    assert ".png, .jpg, .html" in wrong.stderr
    missing = runner.invoke(cli.app, ["explain", "part.bundle", "nowhere.png", "--out", "other.png"])
    assert missing.exit_code == 2
    assert len(missing.stderr.splitlines()) == 1
    assert not (tmp_path / "other.png").exists()


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.png").write_text("no image")
    with pytest.raises(ImageError):
        explain(Inspector(bundle_of(), "cpu"), tmp_path / "part.png")


def test_an_exported_runtime_shows_no_steps(part: Path) -> None:
    bundle = bundle_of()

    class Exported:
        name, usual_batch = "onnx", 1

        def __call__(self, images: np.ndarray) -> None:
            raise AssertionError

    with pytest.raises(ConfigError, match="only PyTorch"):
        explain(Inspector(bundle, runtime=Exported()), part)  # type: ignore[arg-type]


def test_the_plot_marks_the_part_the_threshold_and_the_good() -> None:
    plot = score_plot(GOOD, 0.8, 0.5)
    assert plot.shape == (PLOT[1], PLOT[0], 3)

    def columns(colour: tuple[int, int, int], rows: slice) -> np.ndarray:
        return np.flatnonzero((plot[rows] == colour[::-1]).all(2).any(0))

    base = PLOT[1] - 40
    marker = columns((168, 67, 0), slice(base + 1, base + 14))
    ticks = columns((11, 92, 156), slice(base - 20, base - 10))
    assert len(np.flatnonzero(np.diff(ticks) > 1)) + 1 == len(GOOD)
    assert marker.mean() > ticks.max()
    line = columns((23, 33, 43), slice(30, base - 40))
    assert ticks.max() < line.mean() < marker.mean()


def test_captions_of_narrow_pictures_do_not_run_into_each_other() -> None:
    tall = np.full((256, 40, 3), 255, np.uint8)
    plot = np.full((10, 10, 3), 255, np.uint8)

    def ink(*captions: str) -> int:
        """Pixels written on."""
        return int((compose("", [], [Panel(caption, tall) for caption in captions], plot) < 255).any(axis=2).sum())

    words = "unlike good photos: encoder"
    assert ink(words, words, words) == 3 * ink(words)


def test_names_beyond_the_font_are_spelled_out() -> None:
    whole = compose("零件 Ünder", ["a"], [Panel("b", np.zeros((8, 8, 3), np.uint8))], score_plot([], 0.5, None))
    assert whole.dtype == np.uint8
