"""`train --minutes`: a bundle of the steps that fit, or one line that says how many minutes it takes."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_helpers import refuse, run, succeed
from deploy_helpers import TINY

from flawmap.bundle import load_bundle, save_general
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.model.discrete import DiscreteModel
from flawmap.train import budget


@pytest.fixture(scope="module")
def metal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "metal"
    write_sample_parts(folder, SURFACES[0], size=64, train=10, good=1, bad=1, seed=0)
    return folder


@pytest.fixture(scope="module")
def training(metal: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The command but for --out and --minutes."""
    general = tmp_path_factory.mktemp("general") / "general.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_general(DiscreteModel(width=8, hidden=4, codes=32, code_length=8), general)
    return ("train", metal, "--config", TINY, "--general", general, "--set", "few.below=0")


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by from one look at the clock to the next."""
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=itertools.count().__next__))


@pytest.mark.parametrize("minutes", ["0", "0.001"])
def test_too_few_minutes_are_refused_in_one_line_and_leave_nothing(
    training: tuple[object, ...], tmp_path: Path, minutes: str
) -> None:
    out = tmp_path / "part.bundle"
    line = refuse(*training, "--set", "refine.steps=0", "--out", out, "--minutes", minutes)
    assert line.startswith(f"flawmap: {minutes} minutes are too few: a step takes ")
    assert line.endswith(" or more")
    assert int(line.split("give --minutes ")[1].split()[0]) >= 1
    assert not everything(tmp_path)


def test_endless_minutes_are_refused_in_one_line_and_leave_nothing(
    training: tuple[object, ...], tmp_path: Path
) -> None:
    words = (*training, "--set", "refine.steps=0", "--out", tmp_path / "part.bundle", "--minutes", "inf")
    assert refuse(*words) == "flawmap: inf minutes cannot be planned; give a number, as --minutes 15"
    assert not everything(tmp_path)


def test_a_bundle_to_be_replaced_stays_when_the_minutes_are_too_few(
    training: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "part.bundle"
    words = (*training, "--set", "refine.steps=0", "--out", out)
    succeed(*words, "--quiet")
    before = everything(tmp_path)
    assert "--overwrite" in refuse(*words, "--minutes", "0.001")
    assert "are too few" in refuse(*words, "--minutes", "0.001", "--overwrite")
    assert everything(tmp_path) == before


def test_enough_minutes_make_a_bundle_of_the_steps_that_fit(
    training: tuple[object, ...], tmp_path: Path, clock: None
) -> None:
    out = tmp_path / "part.bundle"
    result = run(*training, "--set", "refine.steps=0", "--set", "detect.steps=3", "--out", out, "--minutes", "0.45")
    assert result.exit_code == 0, result.output
    bundle = load_bundle(out)
    assert bundle.provenance["minutes_asked"] == 0.45
    assert bundle.recipe.detect.steps >= budget.FEWEST
    assert f"--set detect.steps={bundle.recipe.detect.steps}" in result.stderr
    assert f"wrote {out}" in result.stdout
    assert list(tmp_path.iterdir()) == [out]


def test_a_recipe_that_refines_is_not_planned_by_minutes(training: tuple[object, ...], tmp_path: Path) -> None:
    line = refuse(*training, "--out", tmp_path / "part.bundle", "--minutes", "5")
    assert "this recipe refines too; set its steps by --set" in line
    assert not everything(tmp_path)


@pytest.mark.parametrize("minutes", ["-1", "few", "nan"])
def test_what_are_no_minutes_is_refused_before_anything_is_read(tmp_path: Path, minutes: str) -> None:
    result = run("train", tmp_path / "nowhere", "--out", tmp_path / "part.bundle", f"--minutes={minutes}")
    assert result.exit_code == 2
    assert "--minutes" in result.stderr
    assert "nowhere" not in result.stderr
    assert not everything(tmp_path)
