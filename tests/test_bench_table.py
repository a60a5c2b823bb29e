"""bench/table.py, which `make bench` runs: each target met, missed or not measured, by the newest figures there are."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import common
import table
from table import Row

SCRIPT = Path(table.__file__)
EPYC = "AMD EPYC with AVX-512, 2 cores, Python 3.11.7, PyTorch 2.13.0+cpu"
XEON = "Intel(R) Xeon(R) Processor, 2 cores, Python 3.11.7, PyTorch 2.13.0+cpu"


class Shown(NamedTuple):
    """A line of the table, as printed."""

    verdict: str
    measured: str


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of result files; what would measure anew cannot be imported."""
    monkeypatch.setattr(table, "read_results", partial(common.read_results, folder=tmp_path))
    for name in ("contenders", "inspect_speed"):
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


def write(folder: Path, what: str, day: int, machine: str = EPYC, load: float | None = 0.1, **values: Any) -> None:
    """A result file; the newest ones are not the last by name."""
    facts = {"what": what, "commit": f"c{day:02}", "machine": machine, "load_before": load}
    facts["measured"] = f"2026-11-{day:02}T08:00:00+00:00"
    name = f"{what}-{99 - len(list(folder.iterdir()))}.json"
    (folder / name).write_text(json.dumps(facts | values), encoding="utf-8")


def inspection(fast: float, published: float = 3.0) -> dict[str, Any]:
    """What inspect_speed.py stores, with these seconds an image."""
    seconds = {"transcription": published, "paper": 2.0, "fast": fast, "efficientad": 0.5}
    rows = [
        {"name": name, "runtime": runtime, "precision": "float32", "whole": {"median": each * slower}}
        for name, each in seconds.items()
        for runtime, slower in (("torch", 2), ("openvino", 1))
    ]
    return {
        "rows": rows,
        "gflop": {"fast": 8.0},
        "agreement": {"map": 1e-5, "score": 2e-5, "other_codes": 0},
    }


def quality(seed: int, value: float, **changed: Any) -> dict[str, Any]:
    """What quality.py stores of a training of 15 minutes."""
    names = ("image_auroc", "image_ap", "pixel_ap")
    run = {
        "name": "kolektor", "recipe": "fast", "tag": "", "seed": seed, "wanted_minutes": 15.0, "minutes": 14.0,
        "peak_memory_mb": 2048, "trained_by": "2 CPU threads, bfloat16", "kinds": {"defect": {"value": value}},
        "metrics": {name: {"value": value} for name in names},
    }  # fmt: skip
    return run | changed


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["table.py", *words])
    table.main()
    return capsys.readouterr().out


def groups(text: str) -> dict[str, dict[str, Shown]]:
    """The lines of the table: group, target."""
    found: dict[str, dict[str, Shown]] = {}
    group = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            if " met, " in line:
                break
            group = line
        elif line.startswith("  ") and line[2] != " ":
            sign_wanted_measured = line[103:].split(None, 2)
            found.setdefault(group, {})[line[15:103].strip()] = Shown(line[2:15].strip(), sign_wanted_measured[2])
    return found


def totals(text: str) -> str:
    (line,) = (line for line in text.splitlines() if " met, " in line)
    return line


@pytest.mark.parametrize(
    ("row", "verdict", "measured"),
    [
        (Row("", "", "<=", 4, 4.0), "met", "4"),
        (Row("", "", ">=", 0.9, 0.9), "met", "0.9"),
        (Row("", "", ">=", 30, 31.04, "31.04x"), "met", "31.04x"),
        (Row("", "", "<=", 4, 6.0), "missed", "6, by 2 (50%)"),
        (Row("", "", ">=", 5, 3.75, "3.75x"), "missed", "3.75x, by 1.2 (25%)"),
        (Row("", "", ">=", 0.9, 0.8), "missed", "0.8, by 0.1"),
        (Row("", "", "<=", 1e-4, 1.5e-4), "missed", "0.00015, by 5e-05"),
        (Row("", "", "<=", 1e-4, 0.0), "met", "0"),
        (Row("", "", ">=", 5, None), "not measured", "-"),
    ],
)
def test_a_target_is_met_missed_by_so_much_or_not_measured(row: Row, verdict: str, measured: str) -> None:
    assert (row.verdict, row.measured) == (verdict, measured)


def test_without_any_result_nothing_is_measured_and_nothing_fails(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(monkeypatch, capsys, "--no-live")
    found = groups(text)
    every = [shown for group in found.values() for shown in group.values()]
    assert len(found) == 6
    assert len(every) > 20
    assert set(every) == {Shown("not measured", "-")}
    assert totals(text) == f"0 met, 0 missed, {len(every)} not measured"
    for script in ("inspect_speed", "train_step", "quality", "demo"):
        assert f"measure with: python bench/{script}.py" in text
    curves = text.partition(totals(text))[2]
    assert curves.count("image_ap not measured; pixel_ap not measured") == 2 * len(table.MINUTES)


def test_the_newest_result_counts_and_is_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day, minutes, value in ((3, 9.0, 0.5), (20, 3.5, 0.95), (11, 1.0, 0.99)):
        write(results, "demo", day, load=2.5, minutes=minutes, metrics={"image_auroc": {"value": value}})
    text = run(monkeypatch, capsys, "--no-live")
    assert groups(text)["make demo"] == {
        "image AUROC": Shown("missed", "0.95, by 0.02"),
        "minutes": Shown("met", "3.5"),
    }
    assert f"python bench/demo.py --write · c20 · {EPYC} · 2026-11-20; load 2.5 before it began\n" in text
    assert totals(text).startswith("1 met, 1 missed, ")


def test_a_quiet_machine_needs_no_note(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(results, "demo", 3, load=0.4, minutes=2, metrics={"image_auroc": {"value": 1.0}})
    assert f"· {EPYC} · 2026-11-03\n" in run(monkeypatch, capsys, "--no-live")


def test_inspecting_is_shown_of_each_processor_by_its_newest_figures(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day, machine, fast in ((9, EPYC, 0.05), (5, EPYC, 0.2), (2, XEON, 0.15), (1, XEON, 0.01)):
        write(results, "inspect", day, machine, **inspection(fast))
    found = groups(run(monkeypatch, capsys, "--no-live"))
    title = "Inspecting, 256x256, end to end, each in its best runtime: "
    assert [group.removeprefix(title) for group in found if group.startswith(title)] == [
        "AMD EPYC with AVX-512",
        "Intel(R) Xeon(R) Processor",
    ]
    target = "fast: against the published inference"
    assert found[f"{title}AMD EPYC with AVX-512"][target] == Shown("met", "60.00x; in float32 60.00x")
    slow = found[f"{title}Intel(R) Xeon(R) Processor"]
    assert slow[target] == Shown("missed", "20.00x; in float32 20.00x, by 10 (33%)")
    assert slow["fast: GFLOP an image"] == Shown("met", "8.0")
    assert slow["paper architecture: against the published inference"] == Shown("missed", "1.50x, by 0.2 (12%)")
    difference = slow["paper architecture: largest difference of map and score"]
    assert difference == Shown("met", "2.0e-05 (0 cells took another code)")
    assert "paper architecture in INT8: the same" not in slow  # asked for where INT8 was measured


def test_a_program_that_was_not_timed_leaves_its_ratio_unmeasured(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = inspection(0.05)
    values["rows"] = [row for row in values["rows"] if row["name"] != "efficientad"]
    write(results, "inspect", 1, **values)
    (found,) = (group for title, group in groups(run(monkeypatch, capsys, "--no-live")).items() if "Inspect" in title)
    assert found["fast: against EfficientAD-S, both in their best precision"] == Shown("not measured", "-")
    assert found["fast: against the published inference"].verdict == "met"


def test_quality_is_the_mean_over_seeds_and_a_gpu_stands_apart(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate((0.5, 0.7)):
        write(results, "quality", 1 + seed, **quality(seed, value))
    write(results, "quality", 5, **quality(0, 0.9, trained_by="NVIDIA H100, bfloat16", minutes=1.0))
    for changed in ({"recipe": "paper"}, {"tag": "cold"}, {"wanted_minutes": 5.0}, {"name": "magnetic_tile"}):
        write(results, "quality", 9, **quality(2, 0.1, **changed))
    text = run(monkeypatch, capsys, "--no-live")
    found = groups(text)
    cores, gpu = found["Quality, trained on two cores"], found["Quality, trained on a GPU, in as many steps"]
    assert cores["kolektor, 15 min: image AP"] == Shown("missed", "0.600 [0.500, 0.700], 2 of 3 seeds, by 0.1")
    assert cores["kolektor, 15 min: pixel AP"].verdict == "met"
    assert gpu["kolektor, 15 min: image AP"].verdict == "met"
    assert gpu["kolektor, 15 min: image AP"].measured.startswith("0.900, ")
    assert cores["kolektor, 60 min: image AP"] == Shown("not measured", "-")
    assert "    15 min (14.0 measured): image_ap 0.600 [0.500, 0.700], 2 seeds; pixel_ap 0.600" in text
    assert found["Training"]["fast: longest training, minutes on two cores"] == Shown("met", "14")
    assert found["Training"]["fast: the same on a GPU (H200 asked for)"] == Shown("met", "1")
    assert found["Training"]["fast: largest memory, GB"] == Shown("met", "2")


def test_the_worst_kind_of_defect_counts(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {name: {"value": value} for name, value in (("blowhole", 0.9), ("crack", 0.65), ("fray", 0.8))}
    write(results, "quality", 1, **quality(0, 0.9, name="magnetic_tile", kinds=kinds))
    found = groups(run(monkeypatch, capsys, "--no-live"))["Quality, trained on two cores"]
    worst = found["magnetic_tile, 15 min: AUROC of the worst kind"]
    assert worst.verdict == "missed"
    assert worst.measured.startswith("0.650, ")
    assert worst.measured.endswith(", by 0.05")


def test_steps_of_a_training_are_told_by_device_and_precision(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day, device, ratio in ((4, "cpu", 1.0), (6, "cpu", 2.5), (5, "gpu", 4.0)):
        rows = [{"name": "paper float32", "ratio": ratio}, {"name": "paper bfloat16", "ratio": 2 * ratio}]
        write(results, "train_step", day, device=device, rows=rows)
    write(results, "train_curves", 2, first_step=3e-4, program=1.0, seed=2.0)
    found = groups(run(monkeypatch, capsys, "--no-live"))["Training"]
    target = "paper architecture, {}, {}: a step against the published one"
    assert found[target.format("float32", "CPU")] == Shown("met", "2.50x")
    assert found[target.format("bfloat16", "CPU")] == Shown("met", "5.00x")
    assert found[target.format("float32", "GPU")] == Shown("missed", "4.00x, by 1 (20%)")
    assert found[target.format("bfloat16", "GPU")] == Shown("met", "8.00x")
    assert found["the same defects give the same losses, first step"] == Shown("missed", "3.0e-04, by 0.0002")
    assert [shown for name, shown in found.items() if name.startswith("losses of the later half")] == [
        Shown("met", "0.5")
    ]


def test_the_rate_counts_from_ten_images_on(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ((1, 2.0, 500), (10, 20.0, 700), (100, 16.0, 770))
    rows = [{"images": images, "images_a_second": rate, "memory_mb": memory} for images, rate, memory in rates]
    write(results, "counts", 1, rows=rows)
    found = groups(run(monkeypatch, capsys, "--no-live"))["Many images, in one process"]
    assert found == {
        "slowest against fastest rate, 10 images up to 100": Shown("missed", "0.80, not yet to 10 000, by 0.1"),
        "largest against smallest memory": Shown("missed", "1.100, not yet to 10 000, by 0.05 (5%)"),
    }


def test_what_is_measured_just_now_stands_before_what_is_stored(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contenders, speed = ModuleType("contenders"), ModuleType("inspect_speed")
    asked: list[Any] = []

    def measure(*how: Any) -> dict[str, Any]:
        asked.append(how)
        return inspection(0.05)

    monkeypatch.setattr(contenders, "RUNTIMES", ("torch", "abacus"), raising=False)
    monkeypatch.setattr(contenders, "installed", lambda name: name != "abacus", raising=False)
    monkeypatch.setattr(speed, "measure", measure, raising=False)
    monkeypatch.setitem(sys.modules, "contenders", contenders)
    monkeypatch.setitem(sys.modules, "inspect_speed", speed)
    write(results, "inspect", 1, XEON, **inspection(0.15))
    found = groups(run(monkeypatch, capsys, "--rounds", "2"))
    assert asked == [("fast", "paper", ["torch"], 2, False)]
    first, second = (group for group in found if group.startswith("Inspecting"))
    assert first.endswith(": just now")
    assert second.endswith(": Intel(R) Xeon(R) Processor")
    target = "fast: against the published inference"
    assert (found[first][target].verdict, found[second][target].verdict) == ("met", "missed")


def test_the_results_of_the_repository_are_shown(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--no-live"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = groups(done.stdout)
    verdicts = [shown.verdict for group in found.values() for shown in group.values()]
    words = ("met", "missed", "not measured")
    assert totals(done.stdout) == ", ".join(f"{verdicts.count(word)} {word}" for word in words)
    measured = {table.processor(result) for result in common.read_results("inspect")}
    assert {group.rpartition(": ")[2] for group in found if group.startswith("Inspecting")} == measured
    assert {"met", "missed"} <= set(verdicts)
