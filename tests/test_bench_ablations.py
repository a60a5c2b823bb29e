"""bench/ablations.py: each ablation is the recipe `fast` but for what it names, and each has a row in the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ablations
from ablations import ADDED, BASE, FURTHER, KNOWN, markdown
from flawmap.config import load_recipe


def settings(*changed: str) -> dict[str, Any]:
    """Every setting of `fast` with these changed, by section.name."""
    recipe = load_recipe("fast", list(changed)).model_dump()
    return {f"{section}.{name}": value for section, values in recipe.items() for name, value in values.items()}


@pytest.mark.parametrize("name", KNOWN)
def test_an_ablation_differs_from_the_whole_in_what_it_names(name: str) -> None:
    whole, changed = settings(*BASE), settings(*BASE, *KNOWN[name][1])
    differing = {setting for setting in whole if changed[setting] != whole[setting]}
    assert differing == {setting.partition("=")[0] for setting in KNOWN[name][1]}
    assert bool(differing) == (name != "whole")


def test_evidence_beside_detection_is_left_out_of_all() -> None:
    plain, base = settings(), settings(*BASE)
    differing = {setting for setting in plain if base[setting] != plain[setting]}
    assert differing == {"model.familiarity", "model.guided"} == {setting.partition("=")[0] for setting in BASE}
    assert (base["model.familiarity"], base["model.guided"]) == ((), False)


def test_no_two_ablations_are_the_same() -> None:
    assert len({frozenset(changed) for _, changed in KNOWN.values()}) == len(KNOWN)
    assert len({folder(name) for name in KNOWN}) == len(KNOWN)
    said = [KNOWN[name][0] for name in KNOWN if name not in ADDED]
    assert len(set(said)) == len(said)


def folder(name: str) -> str:
    return name.replace(" ", "-")


def figure(mean: float, spread: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "spread": spread}


def test_the_table_has_a_row_an_ablation_and_three_figures_a_data_set() -> None:
    found: dict[str, dict[str, Any]] = {
        "whole": {
            "bolts": {"image_auroc": figure(0.9, 0.0123), "image_ap": figure(0.8), "pixel_ap": None},
            "nuts": {"image_auroc": figure(0.7), "image_ap": figure(0.61251), "pixel_ap": figure(0.1)},
        },
        "no restriction": {
            name: {"image_auroc": figure(0.5), "image_ap": figure(0.4), "pixel_ap": figure(0.3)}
            for name in ("nuts", "bolts")
        },
    }
    assert markdown(found, ["bolts", "nuts"]).splitlines() == [
        "| left out | bolts: image AUROC | image AP | pixel AP | nuts: image AUROC | image AP | pixel AP |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| nothing | 0.900 ± 0.012 | 0.800 | – | 0.700 | 0.613 | 0.100 |",
        "| subspace restriction: codes are drawn as they are | 0.500 | 0.400 | 0.300 | 0.500 | 0.400 | 0.300 |",
    ]
    assert markdown({"deform": found["whole"]}, ["bolts"]).startswith("| added | bolts: image AUROC |")


class Benchmarks:
    """Stands in for `flawmap benchmark`, which trains: the AUROC is how many were run before."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.code, self.writes = 0, True

    def __call__(self, command: list[str]) -> SimpleNamespace:
        out = Path(command[command.index("--out") + 1])
        assert not (out / "results.json").exists()
        if self.writes:
            out.mkdir(parents=True, exist_ok=True)
            row = {"image_auroc": figure(len(self.commands)), "image_ap": None, "pixel_ap": None}
            (out / "results.json").write_text(json.dumps({"rows": [row]}), encoding="utf-8")
        self.commands.append(command)
        return SimpleNamespace(returncode=self.code)


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmarks:
    stand_in = Benchmarks()
    monkeypatch.setattr(ablations, "subprocess", SimpleNamespace(run=stand_in))
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "results")
    return stand_in


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["ablations.py", "--work", str(tmp_path / "work"), *words])
        ablations.main()

    return run


def test_each_ablation_is_a_benchmark_with_its_settings(
    benchmarks: Benchmarks, run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--data", str(tmp_path / "bolts"), "--data", str(tmp_path / "nuts"), "--only", "whole, coarse only",
        "--seeds", "0,1", "--set", "detect.steps=9", "--name", "some")  # fmt: skip
    wanted = []
    for name, more in (("whole", []), ("coarse-only", ["anomalies.grids=coarse"])):
        for data in ("bolts", "nuts"):
            changes = [word for change in (*BASE, "detect.steps=9", *more) for word in ("--set", change)]
            out = ["--out", str(tmp_path / "work" / f"{data}-{name}")]
            start = ["-m", "flawmap", "benchmark", str(tmp_path / data), "--recipe", "fast", "--seeds", "0,1"]
            wanted.append([sys.executable, *start, *out, *changes])
    assert benchmarks.commands == wanted
    stored = json.loads((tmp_path / "results" / "some.json").read_text(encoding="utf-8"))
    assert (stored["what"], stored["recipe"], stored["seeds"]) == ("some", "fast", "0,1")
    assert stored["settings"] == [*BASE, "detect.steps=9"]
    assert stored["ablations"]["coarse only"]["nuts"]["image_auroc"]["mean"] == 3
    text = (tmp_path / "results" / "some.md").read_text(encoding="utf-8")
    assert text == markdown(stored["ablations"], ["bolts", "nuts"])
    assert text in capsys.readouterr().out


def test_without_only_the_ablations_of_the_paper_alone_are_run(
    benchmarks: Benchmarks, run: Callable[..., None], tmp_path: Path
) -> None:
    run("--data", str(tmp_path / "bolts"))
    names = [Path(command[command.index("--out") + 1]).name for command in benchmarks.commands]
    assert names == [f"bolts-{folder(name)}" for name in KNOWN if name not in {**FURTHER, **ADDED}]


def test_an_unknown_ablation_is_refused_before_any_is_run(
    benchmarks: Benchmarks, run: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="no ablation everything; there are: whole, no restriction, "):
        run("--data", str(tmp_path / "bolts"), "--only", "whole,everything")
    assert not benchmarks.commands


def test_a_benchmark_that_fails_is_not_taken_for_an_older_one(
    benchmarks: Benchmarks, run: Callable[..., None], tmp_path: Path
) -> None:
    run("--data", str(tmp_path / "bolts"), "--only", "whole")
    before = (tmp_path / "results" / "ablations.json").read_bytes()
    benchmarks.writes = False
    with pytest.raises(SystemExit) as stopped:
        run("--data", str(tmp_path / "bolts"), "--only", "whole")
    assert stopped.value.code == 1
    benchmarks.writes, benchmarks.code = True, 130
    with pytest.raises(SystemExit) as stopped:
        run("--data", str(tmp_path / "bolts"), "--only", "whole")
    assert stopped.value.code == 130
    assert (tmp_path / "results" / "ablations.json").read_bytes() == before
