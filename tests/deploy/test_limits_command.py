"""`flawmap limits`: what it says and writes is what its trials hold; what cannot be tried is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_helpers import refuse, rows, run, succeed

from flawmap.bundle import Bundle, load_bundle, save_bundle
from flawmap.deploy import limits
from flawmap.deploy.limits import Trial, lines, summarise

FILES = ["index.html", "limits.json", "trials.csv"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bounds from few resamples, and exports kept with the test."""
    monkeypatch.setattr(limits, "RESAMPLES", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def trials(folder: Path) -> list[Trial]:
    """The trials as written."""
    figures = [
        [float(row[name]) for name in ("size", "contrast", "x", "y", "score")] for row in rows(folder / FILES[2])
    ]
    return [
        Trial(row["image"], row["shape"], size, contrast, x, y, row["found"] == "true", score)
        for row, (size, contrast, x, y, score) in zip(rows(folder / FILES[2]), figures, strict=True)
    ]


def tried(folder: Path) -> set[tuple[str, float, float]]:
    """Image, size and contrast of each trial."""
    return {(trial.image, trial.size, trial.contrast) for trial in trials(folder)}


def test_every_size_and_contrast_is_tried_on_every_photo_and_told(trained: Path, metal: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "limits", metal / "test" / "good"
    shown = succeed("limits", trained, good, "--out", out, "--sizes", "24,4", "--contrasts", "60%,0.01")
    assert sorted(path.name for path in out.iterdir()) == FILES
    found = trials(out)
    photos = {str(path) for path in good.iterdir()}
    assert tried(out) == {(photo, size, contrast) for photo in photos for size in (4, 24) for contrast in (0.01, 0.6)}
    assert len(found) == len(tried(out)) == 16
    wanted = summarise(found)
    assert [limit.contrast for limit in wanted] == [0.01, 0.6]
    assert wanted[0].counts == {4: (0, 4), 24: (0, 4)}  # as good as nothing was drawn
    assert wanted[1].counts == {4: (4, 4), 24: (4, 4)}
    assert shown.splitlines() == [*lines(wanted), f"wrote {out / 'index.html'}, limits.json and trials.csv"]
    document = json.loads((out / "limits.json").read_text(encoding="utf-8"))
    facts = {name: document[name] for name in ("bundle", "shape", "photos", "trials", "seed")}
    assert facts == {"bundle": str(trained), "shape": "spot", "photos": 4, "trials": 16, "seed": 0}
    assert [limit["contrast"] for limit in document["limits"]] == [0.01, 0.6]
    assert (out / "index.html").read_text(encoding="utf-8").count("<circle") == 4


def test_the_same_seed_draws_the_same_defects(trained: Path, metal: Path, tmp_path: Path) -> None:
    words = ("limits", trained, metal / "test" / "good", "--sizes", "8", "--contrasts", "40%", "--photos", "2")
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        succeed(*words, "--seed", seed, "--out", tmp_path / name)
    first, again, other = (trials(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert [(trial.x, trial.y) for trial in first] != [(trial.x, trial.y) for trial in other]
    assert len({trial.image for trial in first}) == 2


def test_lines_are_drawn_where_lines_are_asked_for(trained: Path, metal: Path, tmp_path: Path) -> None:
    words = ("limits", trained, metal / "test" / "good", "--sizes", "24", "--contrasts", "40%", "--photos", "2")
    for shape in ("line", "spot"):
        succeed(*words, "--shape", shape, "--out", tmp_path / shape)
    line, spot = (trials(tmp_path / shape) for shape in ("line", "spot"))
    assert {trial.shape for trial in line} == {"line"}
    assert [trial.score for trial in line] != [trial.score for trial in spot]
    assert json.loads((tmp_path / "line" / "limits.json").read_text(encoding="utf-8"))["shape"] == "line"


def test_without_sizes_and_contrasts_those_of_the_manual_are_tried(trained: Path, metal: Path, tmp_path: Path) -> None:
    succeed("limits", trained, metal / "test" / "good", "--out", tmp_path / "limits", "--photos", "2")
    found = trials(tmp_path / "limits")
    assert {trial.size for trial in found} == {2, 3, 4, 6, 8, 12, 16, 24, 32}
    assert {trial.contrast for trial in found} == {0.05, 0.1, 0.2, 0.4}
    assert len(found) == 2 * 9 * 4


def test_a_size_or_contrast_given_twice_is_tried_once(trained: Path, metal: Path, tmp_path: Path) -> None:
    words = ("--sizes", " 8 , 8.0,8", "--contrasts", "40 %, 0.4", "--photos", "2")
    succeed("limits", trained, metal / "test" / "good", "--out", tmp_path / "limits", *words)
    assert {(trial.size, trial.contrast) for trial in trials(tmp_path / "limits")} == {(8.0, 0.4)}
    assert len(trials(tmp_path / "limits")) == 2


@pytest.mark.parametrize(
    ("option", "text", "line"),
    [
        ("--sizes", "0", "--sizes 0: expected numbers above 0, as 2,4,8"),
        ("--sizes", "-3", "--sizes -3: expected numbers above 0, as 2,4,8"),
        ("--sizes", "4,few", "--sizes few: expected numbers above 0, as 2,4,8"),
        ("--sizes", "4,,8", "--sizes : expected numbers above 0, as 2,4,8"),
        ("--sizes", "4;8", "--sizes 4;8: expected numbers above 0, as 2,4,8"),
        ("--sizes", "nan", "--sizes nan: expected numbers above 0, as 2,4,8"),
        ("--sizes", "inf", "--sizes inf: expected numbers above 0, as 2,4,8"),
        ("--contrasts", "0", "--contrasts 0: expected a share of the range from black to white, as 0.5% or 0.005"),
        ("--contrasts", "100%", "--contrasts 100%: expected a share of the range from black to white"),
        ("--contrasts", "20", "--contrasts 20: expected a share of the range from black to white"),
        ("--contrasts", "-5%", "--contrasts -5%: expected a share of the range from black to white"),
        ("--contrasts", "5%,few", "--contrasts few: expected a share of the range from black to white"),
        ("--contrasts", "5%,", "--contrasts : expected a share of the range from black to white"),
        ("--contrasts", "nan", "--contrasts nan: expected a share of the range from black to white"),
        ("--shape", "star", "no shape star; there are: spot, line"),
        ("--runtime", "abacus", "no runtime abacus; there are: auto, torch, onnx, openvino"),
        ("--precision", "half", "no precision half; there are: float32, bfloat16"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_one_line(
    trained: Path, metal: Path, tmp_path: Path, option: str, text: str, line: str
) -> None:
    out = tmp_path / "limits"
    assert line in refuse("limits", trained, metal / "test" / "good", "--out", out, f"{option}={text}")
    assert not out.exists()


def test_a_defect_that_no_photo_has_room_for_is_refused(trained: Path, metal: Path, tmp_path: Path) -> None:
    line = refuse("limits", trained, metal / "test" / "good", "--out", tmp_path / "limits", "--sizes", "4,61")
    assert "a defect of 61 pixels has no room in 64x64" in line
    assert not (tmp_path / "limits").exists()


def test_one_photo_alone_is_too_few(trained: Path, metal: Path, tmp_path: Path) -> None:
    result = run("limits", trained, metal / "test" / "good", "--out", tmp_path / "limits", "--photos", "1")
    assert result.exit_code == 2
    assert "--photos" in result.stderr


def test_without_a_threshold_there_are_no_limits(trained: Path, metal: Path, tmp_path: Path) -> None:
    opened = load_bundle(trained)
    save_bundle(Bundle(opened.model, opened.recipe, None, {}), tmp_path / "bare.bundle")
    line = refuse("limits", tmp_path / "bare.bundle", metal / "test" / "good", "--out", tmp_path / "limits")
    assert "the bundle has no threshold" in line
    assert not (tmp_path / "limits").exists()


def test_photos_rejected_as_they_are_are_told_and_left_out(trained: Path, metal: Path, tmp_path: Path) -> None:
    test, out = metal / "test", tmp_path / "limits"
    words = ("--sizes", "8", "--contrasts", "40%")
    shown = succeed("limits", trained, test / "good", test / "crack", "--out", out, *words)
    assert shown.splitlines()[0] == "1 of 5 photos are rejected as they are, and take no part"
    assert json.loads((out / "limits.json").read_text(encoding="utf-8"))["photos"] == 4
    assert "none of the photos passes as it is" in refuse(
        "limits", trained, test / "crack", "--out", tmp_path / "none", *words
    )
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_is_kept_unless_it_may_be_overwritten(trained: Path, metal: Path, tmp_path: Path) -> None:
    out = tmp_path / "limits"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    (out / "trials.csv").write_text("old")
    words = ("limits", trained, metal / "test" / "good", "--out", out, "--sizes", "8", "--contrasts", "40%")
    assert "--overwrite" in refuse(*words)
    assert (out / "trials.csv").read_text() == "old"
    succeed(*words, "--overwrite")
    assert (out / "notes.txt").read_text() == "keep me"
    assert len(trials(out)) == 4


def test_an_export_finds_the_same_limits(trained: Path, metal: Path, tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    words = ("limits", trained, metal / "test" / "good", "--sizes", "8", "--contrasts", "1%,60%", "--photos", "2")
    succeed(*words, "--out", tmp_path / "torch")
    result = run(*words, "--out", tmp_path / "onnx", "--runtime", "onnx")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"flawmap: exporting {trained} to onnx, which is done once and takes a while\n"
    known, found = trials(tmp_path / "torch"), trials(tmp_path / "onnx")
    assert [trial.found for trial in found] == [trial.found for trial in known] == [False, True] * 2
    assert [trial.score for trial in found] == pytest.approx([trial.score for trial in known], abs=1e-4)
