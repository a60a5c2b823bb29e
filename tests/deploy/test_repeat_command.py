"""`flawmap repeat`: what it says and writes is what its shots got; what cannot be repeated is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import refuse, rows, run, succeed

import flawmap
from flawmap.bundle import Bundle, load_bundle, save_bundle
from flawmap.deploy.repeat import Jitter, repeat_photos
from flawmap.model.dsr import DSR

FILES = ["index.html", "parts.csv", "repeat.json"]


@pytest.fixture(scope="module")
def shots(metal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts of two shots each: a good one, a bad one, and one whose shots show both."""
    folder = tmp_path_factory.mktemp("shots")
    test = metal / "test"
    for part, photos in {
        "bad": ("crack/000", "scratch/000"),
        "between": ("good/001", "crack/000"),
        "good": ("good/000", "good/001"),
    }.items():
        (folder / part).mkdir()
        for number, photo in enumerate(photos):
            shutil.copy(test / f"{photo}.png", folder / part / f"{number}.png")
    return folder


def document(folder: Path) -> dict[str, object]:
    """repeat.json."""
    found: dict[str, object] = json.loads((folder / "repeat.json").read_text(encoding="utf-8"))
    return found


def deviations(folder: Path) -> list[float]:
    """Of each part's scores."""
    return [float(row["deviation"]) for row in rows(folder / "parts.csv")]


def test_each_folder_is_a_part_and_its_verdicts_are_counted(trained: Path, shots: Path, tmp_path: Path) -> None:
    out = tmp_path / "repeat"
    shown = succeed("repeat", trained, shots, "--out", out).splitlines()
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert shown[0] == "1 of 3 parts (33.3%) get both verdicts over 6 shots"
    assert shown[1] == "two shots of a part disagree with a chance of 33.33%"
    assert shown[-1] == f"wrote {out / 'index.html'}, repeat.json and parts.csv"
    inspector = flawmap.load(trained)
    for row, rejected in zip(rows(out / "parts.csv"), (2, 1, 0), strict=True):
        scores = [inspector.inspect(path).score for path in sorted((shots / row["part"]).iterdir())]
        assert (row["shots"], row["rejected"], row["flipped"]) == ("2", str(rejected), str(rejected == 1).lower())
        figures = [float(row[name]) for name in ("mean", "deviation", "lowest", "highest")]
        assert figures == pytest.approx([np.mean(scores), np.std(scores, ddof=1), min(scores), max(scores)], rel=1e-4)
    assert [row["part"] for row in rows(out / "parts.csv")] == ["bad", "between", "good"]
    found = document(out)
    assert (found["parts"], found["shots"], found["flipped"]) == (3, 6, 1)
    assert (found["bundle"], found["photos"]) == (str(trained), str(shots))
    assert found["threshold"] == inspector.bundle.threshold.score  # type: ignore[union-attr]
    assert found["shots_are"] == "Shots as photographed, a folder a part"
    assert (out / "index.html").read_text(encoding="utf-8").count("<circle") == 3


def test_shots_are_made_up_of_each_photo(trained: Path, metal: Path, tmp_path: Path) -> None:
    out = tmp_path / "repeat"
    shown = succeed("repeat", trained, metal / "test" / "good", "--out", out, "--shots", 3, "--exposure", "4%")
    assert "of 4 parts" in shown
    assert "over 12 shots" in shown
    found = rows(out / "parts.csv")
    assert [row["shots"] for row in found] == ["3"] * 4
    assert [row["part"] for row in found] == [str(path) for path in sorted((metal / "test" / "good").iterdir())]
    assert document(out)["shots_are"] == (
        "3 shots of each photo, made up: moved by up to 1 pixels, light within 4%, noise of 0.5%"
    )


@pytest.mark.parametrize(
    ("knob", "jitter"),
    [
        (("--shift", "2"), Jitter(2, 0, 0)),
        (("--exposure", "5%"), Jitter(0, 0.05, 0)),
        (("--exposure", " 0.05 "), Jitter(0, 0.05, 0)),
        (("--noise", "2%"), Jitter(0, 0, 0.02)),
        (("--noise", ".02"), Jitter(0, 0, 0.02)),
    ],
)
def test_each_knob_alone_makes_shots_differ(
    trained: Path, metal: Path, tmp_path: Path, knob: tuple[str, str], jitter: Jitter
) -> None:
    still, good = ("--shift", 0, "--exposure", "0", "--noise", "0.0%"), metal / "test" / "good"
    succeed("repeat", trained, good, "--shots", 2, *still, *knob, "--out", tmp_path / "moved")
    wanted = [part.deviation for part in repeat_photos(flawmap.load(trained), sorted(good.iterdir()), 2, jitter)]
    assert min(wanted) > 0
    assert deviations(tmp_path / "moved") == pytest.approx(wanted, rel=1e-4)


def test_without_any_shift_light_and_noise_a_shot_is_the_photo_again(
    trained: Path, metal: Path, tmp_path: Path
) -> None:
    still = ("--shift", 0, "--exposure", "0%", "--noise", "0")
    succeed("repeat", trained, metal / "test" / "good", "--shots", 2, *still, "--out", tmp_path / "still")
    assert deviations(tmp_path / "still") == [0] * 4


def test_it_looks_in_the_precision_asked_for(
    trained: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawmap.deploy import runtimes

    given: list[str] = []
    original = runtimes.TorchRuntime.__init__

    def noted(runtime: Any, model: DSR, device: str = "auto", threads: int = 0, precision: str = "float32") -> None:
        given.append(precision)
        original(runtime, model, device, threads, "float32")  # a processor without bfloat16 refuses it

    monkeypatch.setattr(runtimes.TorchRuntime, "__init__", noted)
    succeed("repeat", trained, shots, "--out", tmp_path / "repeat", "--precision", "bfloat16")
    assert given == ["bfloat16"]


def test_the_same_seed_makes_up_the_same_shots(trained: Path, metal: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        words = ("--shots", 2, "--seed", seed, "--out", tmp_path / name)
        succeed("repeat", trained, metal / "test" / "good", *words)
    first, again, other = (deviations(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first != other
    assert document(tmp_path / "other")["seed"] == 6


@pytest.mark.parametrize("option", ["--exposure", "--noise"])
@pytest.mark.parametrize("text", ["100%", "1", "-1%", "few", "nan", "%", "", ".", "..", ".%"])
def test_what_is_no_share_of_the_range_is_refused(
    trained: Path, metal: Path, tmp_path: Path, option: str, text: str
) -> None:
    out = tmp_path / "repeat"
    line = refuse("repeat", trained, metal / "test" / "good", "--out", out, "--shots", 2, f"{option}={text}")
    assert line == f"flawmap: {option} {text}: expected a share of the range, as 0.5% or 0.005"
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--shots", "1"), "--shots 1: it takes two or more to repeat"),
        (("--shots", "2", "--shift", "1000"), "--shift 1000: expected pixels, from 0 on"),
        (("--shots", "2", "--shift", "inf"), "--shift inf: expected pixels, from 0 on"),
        (("--shots", "2", "--runtime", "abacus"), "no runtime abacus; there are: auto, torch, onnx, openvino"),
        (("--shots", "2", "--precision", "half"), "no precision half; there are: float32, bfloat16"),
        ((), "good has no folders; put the shots of each part into a folder of its own, or give --shots 5"),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_one_line(
    trained: Path, metal: Path, tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    out = tmp_path / "repeat"
    assert line in refuse("repeat", trained, metal / "test" / "good", "--out", out, *words)
    assert not out.exists()


def test_without_a_threshold_nothing_is_repeated(trained: Path, shots: Path, tmp_path: Path) -> None:
    opened = load_bundle(trained)
    save_bundle(Bundle(opened.model, opened.recipe, None, {}), tmp_path / "bare.bundle")
    assert "has no threshold" in refuse("repeat", tmp_path / "bare.bundle", shots, "--out", tmp_path / "repeat")
    assert not (tmp_path / "repeat").exists()


def test_a_folder_among_the_parts_is_no_place_for_the_figures(trained: Path, shots: Path) -> None:
    before = sorted(shots.rglob("*"))
    assert "lies inside" in refuse("repeat", trained, shots, "--out", shots / "repeat")
    assert sorted(shots.rglob("*")) == before


def test_a_folder_in_use_is_kept_unless_it_may_be_overwritten(trained: Path, shots: Path, tmp_path: Path) -> None:
    out = tmp_path / "repeat"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    (out / "parts.csv").write_text("old")
    assert "--overwrite" in refuse("repeat", trained, shots, "--out", out)
    assert (out / "parts.csv").read_text() == "old"
    succeed("repeat", trained, shots, "--out", out, "--overwrite")
    assert (out / "notes.txt").read_text() == "keep me"
    assert len(rows(out / "parts.csv")) == 3


def test_an_export_gives_the_same_verdicts(
    trained: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxscript", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    succeed("repeat", trained, shots, "--out", tmp_path / "torch")
    result = run("repeat", trained, shots, "--out", tmp_path / "openvino", "--runtime", "openvino")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"flawmap: exporting {trained} to openvino, which is done once and takes a while\n"
    known, found = (rows(tmp_path / name / "parts.csv") for name in ("torch", "openvino"))
    assert [row["rejected"] for row in found] == [row["rejected"] for row in known] == ["2", "1", "0"]
    means = [[float(row["mean"]) for row in each] for each in (known, found)]
    assert means[1] == pytest.approx(means[0], abs=1e-4)
