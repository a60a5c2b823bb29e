from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import refuse, run, succeed

from flawmap import __version__, cli
from flawmap.bundle import Bundle, build, general_card, load_bundle, save_bundle, save_general
from flawmap.bundle_facts import sealed
from flawmap.config import load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.surfaces import SURFACES
from flawmap.deploy.inspector import Inspector
from flawmap.measure.evaluate import NAMES
from flawmap.measure.threshold import choose_threshold

TINY = Path(__file__).with_name("tiny.toml")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "parts"
    succeed("draw", folder, "--size", 64, "--train", 12, "--good", 4, "--bad", 4)
    return folder


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe(TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=True).eval()
    scores, peaks = [0.1 + i / 1000 for i in range(30)], [0.2 + i / 1000 for i in range(30)]
    threshold = choose_threshold(scores, peaks, 0.1)
    provenance = {"held_out_scores": scores, "held_out_peaks": peaks}
    bundle = tmp_path_factory.mktemp("bundles") / "part.bundle"
    save_bundle(Bundle(model=model, recipe=recipe, threshold=threshold, provenance=provenance), bundle)
    save_general(model.discrete, bundle.with_name("general.safetensors"))
    return bundle


@pytest.fixture
def bundle(master: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(master, tmp_path / "part.bundle"))


def test_version_is_that_of_the_package() -> None:
    assert succeed("--version").strip() == f"flawmap {__version__}"


def test_help_names_every_command() -> None:
    shown = succeed("--help")
    assert all(
        name in shown for name in ("pretrain", "train", "import", "inspect", "evaluate", "threshold", "recipes", "draw")
    )


# inspect


def test_inspect_writes_a_row_a_record_a_map_and_an_overlay_for_each_image(
    master: Path, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found"
    succeed("inspect", master, parts / "test", "--out", out)
    assert len(rows(out)) == len(records(out)) == 8
    for row, record in zip(rows(out), records(out), strict=True):
        assert list(row)[:4] == ["image", "score", "threshold", "defective"]
        assert row["image"] == record["image"]
        assert (float(row["score"]), float(row["threshold"])) == (record["score"], record["threshold"])
        assert row["defective"] == ("true" if record["score"] > record["threshold"] else "false")
        assert row["error"] == ""
        assert read_image(out / row["map"]).shape == read_image(out / row["overlay"]).shape == (64, 64, 3)
        for region in record["regions"]:
            assert set(region) == {"box", "polygon", "area", "peak", "mean"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/") >= 8


def test_two_folders_with_the_same_file_names_keep_their_own_maps(master: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(("left", "right")):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "part 1.png", np.full((64, 64, 3), 60 + 90 * number, dtype=np.uint8))
    out = tmp_path / "found"
    succeed("inspect", master, tmp_path / "left", tmp_path / "right", "--out", out)
    assert len({row["map"] for row in rows(out)}) == len({row["overlay"] for row in rows(out)}) == 2


def test_a_broken_image_has_its_own_row_and_the_others_go_on(master: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "c.png"):
        write_image(images / name, np.full((64, 64, 3), 90, dtype=np.uint8))
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:40])
    out = tmp_path / "found"
    result = run("inspect", master, images, "--out", out)
    assert result.exit_code == 2
    assert "1 of 3" in result.stderr and "b.png" in result.stderr
    assert [bool(row["error"]) for row in rows(out)] == [False, True, False]
    assert [record["score"] is None for record in records(out)] == [False, True, False]
    assert "b.png" in rows(out)[1]["error"]


def test_inspect_without_out_prints_a_line_per_image(master: Path, parts: Path) -> None:
    shown = succeed("inspect", master, parts / "test" / "good")
    assert sum(str(parts) in line for line in shown.splitlines()) == 4


def test_inspect_refuses_a_folder_with_something_in_it_and_keeps_it(master: Path, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    assert "--overwrite" in refuse("inspect", master, parts / "test", "--out", tmp_path)
    succeed("inspect", master, parts / "test", "--out", tmp_path, "--overwrite")
    assert (tmp_path / "notes.txt").read_text() == "keep me"
    succeed("inspect", master, parts / "test" / "good", "--out", tmp_path, "--overwrite")
    assert len(rows(tmp_path)) == len(list((tmp_path / "maps").iterdir())) == 4


def test_results_below_the_inspected_folder_are_not_inspected_again(master: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((64, 64, 3), 90, dtype=np.uint8))
    succeed("inspect", master, tmp_path, "--out", tmp_path / "found")
    shown = succeed("inspect", master, tmp_path, "--out", tmp_path / "found", "--overwrite")
    assert len(rows(tmp_path / "found")) == 1
    assert "left out" in shown


def test_inspect_writes_each_line_as_its_image_is_done(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_image(tmp_path / f"{name}.png", np.full((64, 64, 3), 90, dtype=np.uint8))
    out, seen = tmp_path / "found", []

    def say(text: object) -> None:
        if str(text).endswith("c.png"):
            raise KeyboardInterrupt
        seen.append(len(rows(out)))

    monkeypatch.setattr(cli.console, "say", say)
    result = run("inspect", master, tmp_path, "--out", out)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert seen[-2:] == [1, 2]
    assert len(rows(out)) == len(records(out)) == 3


# evaluate


def test_evaluate_writes_each_metric_with_its_interval_and_a_row_per_image(
    master: Path, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "measured"
    shown = succeed("evaluate", master, parts, "--out", out)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    for name in NAMES:
        low, value, high = (metrics[name][key] for key in ("low", "value", "high"))
        assert 0 <= low <= value <= high <= 1
        assert f"{value:.3f}" in shown or f"{value:.1%}" in shown
    with (out / "images.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert (out / "report.html").stat().st_size > 1000


def test_evaluate_tells_escape_where_good_photos_set_the_threshold_for_other_overkills(
    master: Path, parts: Path, tmp_path: Path
) -> None:
    """The bundle's good photos score 0.100 to 0.129: 30 of them, of which 1, 2 and 5 % are less than two."""
    out = tmp_path / "measured"
    shown = succeed("evaluate", master, parts, "--out", out)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["escape_at"]) == ["0.01", "0.02", "0.05"]
    assert [at["threshold"] for at in metrics["escape_at"].values()] == pytest.approx([0.129] * 3)
    assert [at["supported"] for at in metrics["escape_at"].values()] == [False, False, True]
    with (out / "images.csv").open(encoding="utf-8", newline="") as file:
        scores = [(line["label"], float(line["score"])) for line in csv.DictReader(file)]
    rejected = sum(score > 0.129 for label, score in scores if label == "good")
    escaped = sum(score <= 0.129 for label, score in scores if label == "defective")
    five = metrics["escape_at"]["0.05"]
    assert (five["escape"], five["overkill"]) == (escaped / 4, rejected / 4)
    wanted = f"escape at 5 % asked          {25 * escaped:g} % ({25 * rejected:g} % of good rejected)"
    assert wanted in shown.splitlines()
    assert metrics["pixel_threshold"] == pytest.approx(0.227)  # the 28th of 30, for 10 %


def test_evaluate_says_when_good_parts_are_unlike_the_photos(bundle: Path, parts: Path, tmp_path: Path) -> None:
    note = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    out = tmp_path / "measured"
    succeed("evaluate", bundle, parts, "--out", out)
    with (out / "images.csv").open(encoding="utf-8", newline="") as file:
        good = [float(line["score"]) for line in csv.DictReader(file) if line["label"] == "good"]
    for scores, told in (([min(good) - 1e-4 - i / 1e4 for i in range(99)], True), ([*good] * 25, False)):
        note["provenance"] |= {"held_out_scores": scores, "held_out_peaks": scores}
        note["threshold"] |= {"score": max(scores), "overkill": 0.01, "supported": True}
        (bundle / "bundle.json").write_text(sealed(note, bundle), encoding="utf-8")
        shown = succeed("evaluate", bundle, parts, "--out", out, "--overwrite")
        sentence = "4 of 4 good parts score above the threshold (1 % were promised): they are unlike"
        assert (sentence in shown) is told
        assert (sentence in (out / "report.html").read_text(encoding="utf-8")) is told
        assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["good_parts"]["unlike"] is told


def test_a_bundle_without_scores_of_good_photos_tells_neither(bundle: Path, parts: Path, tmp_path: Path) -> None:
    note = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    del note["provenance"]["held_out_scores"]
    (bundle / "bundle.json").write_text(sealed(note, bundle), encoding="utf-8")
    shown = succeed("evaluate", bundle, parts, "--out", tmp_path / "measured")
    assert "asked" not in shown
    metrics = json.loads((tmp_path / "measured" / "metrics.json").read_text(encoding="utf-8"))
    assert {"escape_at", "good_parts"} & set(metrics) == set()


def test_evaluate_refuses_a_protocol_it_does_not_know(master: Path, parts: Path) -> None:
    assert "authors" in refuse("evaluate", master, parts, "--protocol", "mine")


def test_evaluate_names_a_broken_image(master: Path, parts: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(parts, tmp_path / "parts"))
    broken = sorted((copy / "test" / "good").iterdir())[1]
    broken.write_bytes(b"")
    assert broken.name in refuse("evaluate", master, copy, "--out", tmp_path / "measured")


# threshold


def test_threshold_shows_and_changes_nothing(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    assert "threshold" in succeed("threshold", bundle)
    assert (bundle / "bundle.json").read_bytes() == before


def test_threshold_takes_a_value(bundle: Path) -> None:
    succeed("threshold", bundle, "--value", 0.42)
    stored = load_bundle(bundle).threshold
    assert stored is not None
    assert (stored.score, stored.method) == (0.42, "given")


@pytest.mark.parametrize(
    ("words", "pixels"),
    [
        (["20"], 20), (["20px"], 20), (["20 px"], 20), (["0.5mm", "--mm-per-pixel", "0.05"], 79),
        (["0,2 mm2", "--mm-per-pixel", "0.1"], 20), (["1"], 1),
    ],
)  # fmt: skip
def test_threshold_takes_a_smallest_place(words: list[str], pixels: int, bundle: Path, parts: Path) -> None:
    before = load_bundle(bundle)
    told = succeed("threshold", bundle, "--smallest", *words)
    assert told.splitlines() == [f"places smaller than {pixels} pixels are left out; verdicts do not change"]
    after = load_bundle(bundle)
    assert (after.smallest, after.threshold) == (pixels, before.threshold)
    assert Inspector(after, "cpu").smallest == pixels
    assert f"places smaller than {pixels} pixels are left out" in succeed("threshold", bundle)


def test_the_scale_of_a_smallest_place_is_kept(bundle: Path) -> None:
    succeed("threshold", bundle, "--smallest", "0.5mm", "--mm-per-pixel", 0.05)
    succeed("threshold", bundle, "--smallest", "1mm", "--value", 0.3)
    found = load_bundle(bundle)
    assert found.smallest == 315 and found.threshold is not None and found.threshold.score == 0.3


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["--smallest", "wide"], "expected one as 20, 20 px, 0.5 mm or 0.2 mm2"),
        (["--smallest", "-3"], "expected one as 20"),
        (["--smallest", "0.5mm"], "needs mm_per_pixel"),
        (["--smallest", "1e12"], "smallest area"),
        (["--mm-per-pixel", "0.1"], "give it too"),
        (["--smallest", "20", "--value", "7"], "7"),
    ],
)
def test_what_is_no_smallest_place_changes_nothing(words: list[str], cure: str, bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    assert cure in refuse("threshold", bundle, *words)
    assert (bundle / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("place", [{"smallest": True}, {"smallest": "wide"}, {"smallest": "1 mm"}, 5, {}])
def test_a_bundle_with_a_made_up_smallest_place_is_refused(place: object, bundle: Path) -> None:
    note = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    note["provenance"]["place"] = place
    (bundle / "bundle.json").write_text(sealed(note, bundle), encoding="utf-8")
    assert "bundle.json" in refuse("threshold", bundle)


def test_threshold_follows_the_overkill(bundle: Path) -> None:
    scores = []
    for overkill in ("5%", "0.2", "40%"):
        succeed("threshold", bundle, "--overkill", overkill)
        stored = load_bundle(bundle).threshold
        assert stored is not None
        scores.append(stored.score)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


def test_threshold_from_a_labelled_folder_lets_the_good_parts_pass(bundle: Path, parts: Path) -> None:
    succeed("threshold", bundle, "--from", parts, "--overkill", "1%")
    shown = succeed("inspect", bundle, parts / "test" / "good")
    assert "0 defective, 4 good" in shown


@pytest.mark.parametrize("overkill", ["0", "100%", "1", "-5%", "few"])
def test_an_overkill_that_is_no_share_is_refused(bundle: Path, overkill: str) -> None:
    assert "0.5%" in refuse("threshold", bundle, f"--overkill={overkill}")


def test_percent_and_fraction_mean_the_same() -> None:
    assert cli.parse_share("0.5%") == cli.parse_share(" 0.5 %") == cli.parse_share("0.005") == 0.005


def test_threshold_refuses_two_orders_at_once(bundle: Path) -> None:
    assert "--value" in refuse("threshold", bundle, "--value", 0.4, "--overkill", "1%")


# train, pretrain, import


def test_train_makes_a_bundle_that_inspects(master: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.bundle"
    general = master.with_name("general.safetensors")
    shown = succeed(
        "train", parts, "--out", out, "--config", TINY, "--general", general, "--set", "run.seed=5", "--quiet"
    )
    assert "mvtec" in shown
    assert load_bundle(out).recipe.run.seed == 5
    assert "--overwrite" in refuse("train", parts, "--out", out, "--config", TINY, "--general", general)
    succeed("inspect", out, parts / "test")


def test_pretrain_makes_a_general_model_that_train_takes(parts: Path, tmp_path: Path) -> None:
    general = tmp_path / "general.safetensors"
    succeed("pretrain", parts / "train", "--out", general, "--config", TINY, "--quiet")
    assert general_card(general)["images"] == 12
    assert "pretrain" in (tmp_path / "general.metrics.jsonl").read_text(encoding="utf-8")
    assert not (tmp_path / "general.safetensors.run").exists()
    assert "--overwrite" in refuse("pretrain", parts / "train", "--out", general, "--config", TINY)
    succeed("pretrain", parts / "train", "--out", general, "--config", TINY, "--quiet", "--overwrite")
    succeed("train", parts, "--out", tmp_path / "part.bundle", "--config", TINY, "--general", general, "--quiet")


def test_ctrl_c_says_how_to_go_on(parts: Path, master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flawmap.train.run.train", stopped)
    general = master.with_name("general.safetensors")
    result = run("train", parts, "--out", tmp_path / "b", "--config", TINY, "--general", general)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert "Traceback" not in result.output


def test_a_defect_of_flawmap_keeps_its_traceback(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("flawmap.data.layouts.read_layout", defect)
    with pytest.raises(ZeroDivisionError):
        run("train", parts, "--out", "b", "--config", TINY)


# recipes, draw, and mistakes


def test_recipes_lists_shows_and_writes(tmp_path: Path) -> None:
    assert {line.split()[0] for line in succeed("recipes").splitlines()} >= {"demo", "fast", "paper"}
    succeed("recipes", "fast", "--set", "run.seed=9", "--out", tmp_path / "mine.toml")
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("fast", ["run.seed=9"])
    assert succeed("recipes", tmp_path / "mine.toml") == (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "mine.toml exists" in refuse("recipes", "paper", "--out", tmp_path / "mine.toml")


def test_drawing_refuses_an_unknown_surface_and_a_folder_in_use(parts: Path, tmp_path: Path) -> None:
    assert all(surface in refuse("draw", tmp_path / "new", "--surface", "marble") for surface in SURFACES)
    assert "exists" in refuse("draw", parts)


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "nowhere.bundle", "{parts}"),
        ("inspect", "{bundle}", "nowhere"),
        ("inspect", "{bundle}", "{empty}"),
        ("inspect", "{bundle}", "{parts}", "--device", "abacus"),
        ("evaluate", "{bundle}", "{empty}"),
        ("evaluate", "{bundle}", "{parts}", "--layout", "mosaic"),
        ("evaluate", "nowhere.bundle", "{parts}"),
        ("train", "{empty}", "--out", "new.bundle"),
        ("train", "{parts}/test/scratch", "--out", "new.bundle"),  # nothing but defective parts
        ("train", "{parts}", "--out", "new.bundle", "--config", "quick"),
        ("train", "{parts}", "--out", "new.bundle", "--set", "detect.stesp=4"),
        ("train", "{parts}", "--out", "new.bundle", "--general", "nowhere.safetensors"),
        ("pretrain", "{empty}", "--out", "new.safetensors"),
        ("threshold", "nowhere.bundle"),
        ("threshold", "{bundle}", "--value", "7"),
        ("threshold", "{bundle}", "--from", "{empty}"),
        ("import", "{empty}", "--object", "part", "--out", "new.bundle"),
        ("import", "nowhere", "--out", "new.safetensors"),
        ("recipes", "quick"),
        ("recipes", "x" * 5000),
        ("inspect", "{bundle}", "x" * 5000),
        ("explain", "{bundle}", "x" * 5000),
        ("evaluate", "x" * 5000, "{parts}"),
        ("train", "x" * 5000, "--out", "new.bundle"),
        ("train", "{parts}", "--out", "x" * 5000),
        ("masks", "x" * 5000, "{parts}", "--out", "masks"),
    ],
    ids=lambda arguments: " ".join(arguments).replace("x" * 5000, "x…"),
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], bundle: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(tmp_path)
    refuse(*(argument.format(bundle=bundle, parts=parts, empty=empty) for argument in arguments))
