"""bench/jury.py runs each set and seed once, resumes what was stopped, and adopts what others trained."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jury
from flawmap.data.surfaces import write_sample_parts
from flawmap.measure.threshold import choose_threshold
from jury_figures import SETS, at_overkills, collect, independent_groups, without_near_duplicates
from processes import Busy, Failed, alone_in, clock, timed

HELD_OUT = [number / 100 for number in range(1, 100)]
GOOD, BAD = (0.1, 0.2, 0.96, 0.985), (0.5, 0.955, 0.985, 0.995, 1.0)
FLAWMAP = '''
"""Stands in for flawmap: notes how it was called, trains and evaluates in no time."""
import json, os, shutil, sys, time
from pathlib import Path

command, first, *words = sys.argv[1:]
given = dict(zip(words, words[1:]))
settings = [value for option, value in zip(words, words[1:]) if option == "--set"]
with open(os.environ["CALLS"], "a") as calls:
    threads = [os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    open_files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    locked = any(file.endswith("/lock") for file in open_files)
    cores = sorted(os.sched_getaffinity(0))
    calls.write(json.dumps([command, Path(first).name, settings, threads, cores, locked]) + "\\n")
if command == "draw":
    Path(first).mkdir(parents=True)
elif command == "train":
    out = Path(given["--out"])
    unfinished = out.with_name(out.name + ".run")
    if (Path(first) / "stopped-once").exists() and not unfinished.exists():
        unfinished.mkdir()
        sys.exit("stopped")
    if (Path(first) / "takes-long").exists():
        (Path(first) / "process").write_text(str(os.getpid()))
        time.sleep(60)
    shutil.copytree(os.environ["BUNDLE"], out)
    note = json.loads((out / "bundle.json").read_text())
    note["provenance"] |= {"data": Path(first).name, "seed": int(settings[0].removeprefix("run.seed="))}
    note["provenance"]["resumed"] = unfinished.exists() and "--resume" in words
    (out / "bundle.json").write_text(json.dumps(note))
else:
    shutil.copytree(os.environ["EVALUATION"], given["--out"], dirs_exist_ok="--overwrite" in words)
'''


def write_bundle(folder: Path, data: str, seed: int, resumed: bool = False) -> None:
    """A bundle without weights."""
    folder.mkdir(parents=True)
    provenance = {
        "data": data, "seed": seed, "minutes": 4.5, "resumed": resumed, "peak_memory_mb": 1000, "trained_on": 80,
        "machine": "1 CPU threads", "held_out_scores": HELD_OUT, "held_out_peaks": HELD_OUT,
    }  # fmt: skip
    threshold = {"score": 0.95, "pixel": 0.95, "overkill": 0.05, "held_out": 99, "supported": True, "note": ""}
    note = {"threshold": threshold, "provenance": provenance}
    (folder / "bundle.json").write_text(json.dumps(note), encoding="utf-8")
    recipe = '[image]\nheight = 256\nwidth = 320\n[detect]\nsteps = 9\n[threshold]\ntail = "observed"\n'
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")


def metrics(auroc: float = 0.75) -> dict[str, Any]:
    """What metrics.json holds of a set without masks."""
    names = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "escape", "overkill")
    found: dict[str, Any] = {name: {"value": None, "low": None, "high": None} for name in names}
    found["image_auroc"] = {"value": auroc, "low": auroc - 0.1, "high": auroc + 0.1}
    return found | {"good": len(GOOD), "defective": len(BAD), "kinds": {}, "threshold": 0.95}


def write_evaluation(folder: Path) -> None:
    """An evaluation without a report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics()), encoding="utf-8")
    labelled = [*(("good", score) for score in GOOD), *(("defective", score) for score in BAD)]
    rows = [f"part.png,,{label},{score}" for label, score in labelled]
    (folder / "images.csv").write_text("\n".join(["image,kind,label,score", *rows]), encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with sets, and a package that stands in for flawmap; what `main` changes in the process is undone."""
    (tmp_path / "src" / "flawmap" / "recipes").mkdir(parents=True)
    for name in ("fast", "accurate"):
        recipe = tmp_path / "src" / "flawmap" / "recipes" / f"{name}.toml"
        recipe.write_text("[detect]\nsteps = 9\n", encoding="utf-8")
    for name, text in (("__init__", ""), ("__main__", FLAWMAP)):
        (tmp_path / "src" / "flawmap" / f"{name}.py").write_text(text, encoding="utf-8")
    for name in SETS:
        (tmp_path / "data" / name).mkdir(parents=True)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    write_bundle(tmp_path / "bundle", "", 0)
    write_evaluation(tmp_path / "evaluation")
    for name in ("BUNDLE", "EVALUATION"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, cores = signal.getsignal(signal.SIGTERM), os.sched_getaffinity(0)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
    os.sched_setaffinity(0, cores)


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: object) -> int:
        folders = [part for name in ("out", "work") for part in (f"--{name}", str(place / name))]
        given = ["--package", str(place / "src"), "--page", str(place / "jury.md"), *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["jury.py", *folders, *given])
        return jury.main()

    return run


def calls(place: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (place / "calls").read_text(encoding="utf-8").splitlines()]


def result(place: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "out" / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("said", "protocol"),
    [({"map_size": "photo"}, "full"), ({"map_size": "network"}, "network"), ({"protocol": "full"}, "network")],
)
def test_a_result_says_what_its_pixels_were_measured_at(place: Path, said: dict[str, str], protocol: str) -> None:
    (place / "evaluation" / "metrics.json").write_text(json.dumps(metrics() | said), encoding="utf-8")
    assert collect(place / "bundle", place / "evaluation")["protocol"] == protocol


def test_each_seed_and_set_is_trained_in_one_thread_evaluated_and_then_skipped(
    run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", place / "data", "--sets", "mtoc,bsdata", "--seeds", "0,2"]
    given += ["--set", "detect.steps=9", "--tag", "x"]
    assert run(*given) == 0
    wanted = []
    for seed in (0, 2):
        for name in ("mtoc", "bsdata"):
            settings = [f"run.seed={seed}", "detect.steps=9"]
            wanted += [["train", name, settings, ["1", "1"]], ["evaluate", "part.bundle", [], ["1", "1"]]]
    assert [call[:4] for call in calls(place)] == wanted
    assert all(call[5] for call in calls(place))  # each holds its run's lock, should this process be killed
    capsys.readouterr()
    assert run(*given) == 0
    assert len(calls(place)) == len(wanted)
    assert capsys.readouterr().out.count(" is done\n") == 4


def test_a_result_says_what_was_measured_and_how(run: Callable[..., int], place: Path) -> None:
    run("--data", place / "data", "--sets", "mtoc", "--seeds", "1", "--commit", "abc1234")
    found = result(place, "mtoc-fast-seed1")
    what = [found[name] for name in ("what", "set", "recipe", "tag", "seed", "settings")]
    assert what == ["jury", "mtoc", "fast", "", 1, []]
    assert (found["commit"], found["command"]) == ("abc1234", "flawmap train mtoc --config fast --set run.seed=1")
    assert found["metrics"]["image_auroc"] == {"value": 0.75, "low": 0.65, "high": 0.85}
    assert "seg_f1" not in found["metrics"]
    assert (found["good"], found["defective"], found["rejected_good"], found["groups"]) == (4, 5, 2, 99)
    assert (found["image"], found["minutes"], found["peak_memory_mb"]) == ({"height": 256, "width": 320}, 4.5, 1000)
    assert found["machine"] and found["trained_by"] == "1 CPU threads"


def test_a_stopped_training_goes_on_and_stops_no_other(
    run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "data" / "kolektor" / "stopped-once").touch()
    given = ["--data", place / "data", "--sets", "kolektor,mtoc", "--seeds", "0"]
    assert run(*given) == 1
    assert "kolektor-fast-seed0: " in capsys.readouterr().err
    assert [path.stem for path in (place / "out").iterdir()] == ["mtoc-fast-seed0"]
    assert "stopped" in (place / "work" / "kolektor-fast-seed0" / "log.txt").read_text(encoding="utf-8")
    assert run(*given) == 0
    assert [call[1] for call in calls(place)] == ["kolektor", "mtoc", "part.bundle", "kolektor", "part.bundle"]
    assert result(place, "kolektor-fast-seed0")["resumed"] is False  # the bundle's own minutes are all there were


def test_a_run_that_another_process_is_at_is_left_to_it(
    run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(place / "work" / "kolektor-fast-seed0"):
        assert run("--data", place / "data", "--sets", "kolektor,mtoc", "--seeds", "0") == 0
    assert "another process is at work" in capsys.readouterr().err
    assert [path.stem for path in (place / "out").iterdir()] == ["mtoc-fast-seed0"]


def test_a_process_that_outlives_its_parent_keeps_the_lock(tmp_path: Path) -> None:
    with alone_in(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(Busy), alone_in(tmp_path):
        pass
    child.communicate(b"\n")
    with alone_in(tmp_path):
        pass


def test_a_run_that_is_told_to_end_takes_its_training_along_and_goes_on_later(
    run: Callable[..., int], place: Path
) -> None:
    data = place / "data" / "mtoc"
    (data / "takes-long").touch()
    given = ["--data", str(place / "data"), "--sets", "mtoc", "--seeds", "0"]
    folders = [f"--{name}={place / name}" for name in ("out", "work")]
    command = [sys.executable, jury.__file__, *given, *folders, "--package", str(place / "src")]
    whole = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (data / "process").exists() or not (data / "process").read_text(encoding="ascii"):
        assert whole.poll() is None
        time.sleep(0.05)
    whole.terminate()
    assert whole.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((data / "process").read_text(encoding="ascii")), 0)
    assert not (place / "out").exists()
    (data / "takes-long").unlink()
    assert run(*given) == 0
    assert (place / "out" / "mtoc-fast-seed0.json").exists()


def test_time_adds_up_over_attempts_and_a_failure_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("100.0", encoding="ascii")
    timed([sys.executable, "-c", ""], tmp_path / "seconds")
    assert 100 <= clock(tmp_path / "seconds") < 160
    with pytest.raises(Failed, match=r"exit\(3\) ended with 3; give the same command again"):
        timed([sys.executable, "-c", "exit(3)"])
    for stopped in ("exit(130)", "import os; os.kill(os.getpid(), 2)"):  # Ctrl-C is no failure
        with pytest.raises(KeyboardInterrupt):
            timed([sys.executable, "-c", f"import signal; signal.signal(2, signal.SIG_DFL); {stopped}"])


def test_other_settings_want_a_tag(run: Callable[..., int], place: Path) -> None:
    given = ["--data", place / "data", "--sets", "mtoc,kolektor", "--seeds", "0"]
    (place / "data" / "kolektor" / "stopped-once").touch()
    run(*given)
    with pytest.raises(SystemExit, match=r"mtoc-fast-seed0 was measured with the settings \[\]; give these, or"):
        run(*given, "--set", "detect.steps=9")
    with pytest.raises(SystemExit, match=r"kolektor-fast-seed0 was begun with the settings \[\]"):
        run("--data", place / "data", "--sets", "kolektor", "--seeds", "0", "--set", "detect.steps=9")
    assert run(*given, "--set", "detect.steps=9", "--tag", "longer") == 1  # kolektor is stopped once
    assert (place / "out" / "mtoc-fast-longer-seed0.json").exists()


def test_a_recipe_that_changed_wants_a_tag(run: Callable[..., int], place: Path) -> None:
    given = ["--data", place / "data", "--sets", "mtoc,kolektor", "--seeds", "0"]
    (place / "data" / "kolektor" / "stopped-once").touch()
    run(*given)
    recipe = place / "src" / "flawmap" / "recipes" / "fast.toml"
    recipe.write_text("# longer\n[detect]\nsteps=9", encoding="utf-8")
    assert run("--data", place / "data", "--sets", "mtoc", "--seeds", "0") == 0  # it says the same
    recipe.write_text("[detect]\nsteps = 10\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="mtoc-fast-seed0 was measured when the recipe fast was another; give another"):
        run(*given)
    with pytest.raises(SystemExit, match="kolektor-fast-seed0 was begun when the recipe fast was another"):
        run("--data", place / "data", "--sets", "kolektor", "--seeds", "0")
    with pytest.raises(SystemExit, match="--recipe faster is no recipe that can be read"):
        run(*given, "--recipe", "faster")


def test_a_surface_is_drawn_once_for_all_seeds_and_states(run: Callable[..., int], place: Path) -> None:
    run("--sets", "drawn-wood", "--seeds", "0,1")
    run("--sets", "drawn-wood", "--seeds", "0", "--tag", "other")
    found = [call[:2] for call in calls(place) if call[0] != "evaluate"]
    assert found == [["draw", "drawn-wood"], *[["train", "drawn-wood"]] * 3]
    with pytest.raises(SystemExit, match=r"no set drawn-cheese; there are: toy_figures, .*, drawn-ground-tile"):
        run("--sets", "drawn-cheese")


def test_no_folder_of_this_machine_is_in_a_result(run: Callable[..., int], place: Path) -> None:
    recipe = place / "own.toml"
    recipe.touch()
    run("--data", place / "data", "--sets", "mtoc", "--seeds", "0", "--recipe", recipe,
        "--set", f'model.backbone="{place}/net.onnx"', "--set", "few.rate=1/2")  # fmt: skip
    text = (place / "out" / "mtoc-own-seed0.json").read_text(encoding="utf-8")
    assert str(place) not in text
    assert result(place, "mtoc-own-seed0")["settings"] == ['model.backbone="net.onnx"', "few.rate=1/2"]


def test_a_run_stays_on_the_core_that_is_given(run: Callable[..., int], place: Path) -> None:
    core = max(os.sched_getaffinity(0))
    run("--data", place / "data", "--sets", "mtoc", "--seeds", "0", "--core", core)
    assert ", 1 core, " in result(place, "mtoc-fast-seed0")["machine"]
    assert calls(place)[0][4] == [core]
    with pytest.raises(SystemExit, match="--core 99999: this system cannot keep a process there"):
        run("--data", place / "data", "--core", 99999)


def test_real_sets_need_their_folder_and_a_package_must_be_one(
    run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="real sets need --data"):
        run("--sets", "mtoc")
    with pytest.raises(SystemExit):
        run("--package", place / "data")
    assert "holds no package flawmap" in capsys.readouterr().err


def test_what_exists_is_adopted_if_it_is_what_was_said(run: Callable[..., int], place: Path) -> None:
    bundle, evaluation = place / "old.bundle", place / "old.evaluation"
    write_bundle(bundle, "magnetic_tile", 1, resumed=True)
    write_evaluation(evaluation)
    (evaluation / "metrics-without-200.json").write_text(json.dumps(metrics(0.7)), encoding="utf-8")
    words = ["--adopt", bundle, evaluation, "--commit", "5b43419"]
    with pytest.raises(SystemExit, match="trained with the seed 1, not 0"):
        run(*words, "--sets", "magnetic_tile", "--seeds", "0")
    with pytest.raises(SystemExit, match="trained with the set magnetic_tile, not mtoc"):
        run(*words, "--sets", "mtoc", "--seeds", "1")
    with pytest.raises(SystemExit, match="give --sets NAME --seeds NUMBER"):
        run(*words, "--sets", "magnetic_tile")
    assert run(*words, "--sets", "magnetic_tile", "--seeds", "1", "--tag", "before") == 0
    found = result(place, "magnetic_tile-fast-before-seed1")
    assert (found["commit"], found["minutes"], found["minutes_at_least"]) == ("5b43419", 4.5, True)
    assert found["without_near_duplicates"]["200"]["image_auroc"]["value"] == 0.7
    assert not (place / "calls").exists()  # nothing was trained
    with pytest.raises(SystemExit, match="exists; delete it first"):
        run(*words, "--sets", "magnetic_tile", "--seeds", "1", "--tag", "before")


def test_what_is_left_without_near_duplicates_is_added_later(run: Callable[..., int], place: Path) -> None:
    run("--data", place / "data", "--sets", "magnetic_tile", "--seeds", "0", "--commit", "abc1234")
    before = result(place, "magnetic_tile-fast-seed0")
    file = place / "metrics-without-50.json"
    file.write_text(json.dumps(metrics(0.8)), encoding="utf-8")
    several = place / "strict.json"
    several.write_text(json.dumps({"200": metrics(0.7), "400": {"metrics": metrics(0.6)}}), encoding="utf-8")
    run("--adopt-strict", file, "--adopt-strict", several, "--sets", "magnetic_tile", "--seeds", "0")
    found = result(place, "magnetic_tile-fast-seed0")
    strict = found.pop("without_near_duplicates")
    assert found == before
    assert {near: part["image_auroc"]["value"] for near, part in strict.items()} == {"50": 0.8, "200": 0.7, "400": 0.6}
    other = place / "other.json"
    other.write_text('{"near": 1}', encoding="utf-8")
    with pytest.raises(Failed, match=r"expected metrics-without-N\.json"):
        without_near_duplicates([other])


def test_escape_is_told_at_thresholds_of_the_good_photos_not_of_the_test() -> None:
    scores = {"good": GOOD, "defective": BAD}
    found = at_overkills(scores, {"held_out_scores": HELD_OUT, "held_out_peaks": HELD_OUT}, "observed")
    # of 99 good photos the 99th, 98th and 95th smallest score
    assert found == {
        "1": {"threshold": 0.99, "escape": 3 / 5, "overkill": 0},
        "2": {"threshold": 0.98, "escape": 2 / 5, "overkill": 1 / 4},
        "5": {"threshold": 0.95, "escape": 1 / 5, "overkill": 2 / 4},
    }
    estimated = at_overkills(scores, {"held_out_scores": HELD_OUT, "held_out_peaks": HELD_OUT}, "estimated")
    assert estimated["1"]["threshold"] == choose_threshold(HELD_OUT, HELD_OUT, 0.01, tail="estimated").score < 0.99
    assert at_overkills(scores, {}, "observed") == {}


@pytest.mark.parametrize(
    ("provenance", "threshold", "groups"),
    [
        ({"groups": 7}, {}, 7),
        ({"groups": {"count": 8, "by": "folder"}}, {}, 8),
        ({"groups": [3, 4, 5]}, {}, 3),
        ({}, {"groups": 9}, 9),
        ({}, {"note": "They are 12 independent groups."}, 12),
        ({"held_out_folders": 11}, {}, 11),
        ({"held_out_folders": 0}, {}, 40),
    ],
)
def test_independent_groups_are_known_folders_or_single_photos(
    provenance: dict[str, Any], threshold: dict[str, Any], groups: int
) -> None:
    assert independent_groups(provenance, {"held_out": 40, "note": ""} | threshold) == groups


def test_a_small_training_of_flawmap_itself_makes_a_result(
    run: Callable[..., int], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample_parts(place / "data" / "mtoc", "brushed-metal", 64, 6, 3, 3, 0)
    small = ["image.height=64", "image.width=64", "detect.crop=64", "few.steps=1", "threshold.held_out_min=2"]
    small += ['model.familiarity=["encoder"]', "model.memory=0"]
    words = [part for setting in small for part in ("--set", setting)]
    source = Path(jury.__file__).parents[1] / "src"
    assert run("--data", place / "data", "--sets", "mtoc", "--seeds", "3", "--package", source, *words, "--write") == 0
    found = result(place, "mtoc-fast-seed3")
    assert (found["good"], found["defective"], found["image"]) == (3, 3, {"height": 64, "width": 64})
    assert found["at_overkill"]["5"]["threshold"] == pytest.approx(found["threshold"]["score"], rel=1e-12)
    assert found["at_overkill"]["5"]["escape"] == found["metrics"]["escape"]["value"]
    assert found["rejected_good"] == round(3 * found["metrics"]["overkill"]["value"])
    assert re.fullmatch(r"([0-9a-f]{7,}\+?|unknown)", found["commit"])
    assert "| mtoc | 64 × 64 | " in (place / "jury.md").read_text(encoding="utf-8")
