"""A training of so many minutes: the steps that fit are found, kept, and told, and nothing else depends on them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flawmap.config import Recipe, load_recipe
from flawmap.data.layouts import Listing, read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.errors import ConfigError, TrainingError
from flawmap.model.discrete import DiscreteModel
from flawmap.train import budget, familiar
from flawmap.train.run import train

TINY = [
    "image.height=64", "image.width=64", "model.codes=32", "model.code_length=8", "model.discrete_width=16",
    "model.discrete_hidden=8", "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4",
    "detect.batch=2", "refine.steps=0", "threshold.held_out_min=3", "run.threads=1", "few.below=0",
    'model.familiarity=["encoder"]',
]  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=64, train=10, good=1, bad=1, seed=0)
    return read_layout(folder)


@pytest.fixture(scope="module")
def general() -> DiscreteModel:
    torch.manual_seed(0)
    return DiscreteModel(width=16, hidden=8, codes=32, code_length=8)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by from one look at the clock to the next: a step takes 0.1 s, what comes after 9 s."""
    for module in (budget, familiar):
        monkeypatch.setattr(module, "PAINTED", 8)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=itertools.count().__next__))


def recipe(*settings: str) -> Recipe:
    return load_recipe(None, [*TINY, *settings])


def test_the_same_steps_without_minutes_give_the_same_weights(
    parts: Listing, general: DiscreteModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = train(parts, recipe("detect.steps=7"), tmp_path / "planned.bundle", general=general, minutes=0.45)
    steps = planned.recipe.detect.steps
    assert steps >= budget.FEWEST
    assert f"--set detect.steps={steps}" in capsys.readouterr().err
    assert planned.provenance["minutes_asked"] == 0.45
    given = train(parts, recipe(f"detect.steps={steps}"), tmp_path / "given.bundle", general=general, quiet=True)
    assert given.provenance["minutes_asked"] is None
    weights = planned.model.state_dict(), given.model.state_dict()
    assert all(torch.equal(one, other) for one, other in zip(*(part.values() for part in weights), strict=True))
    assert not (tmp_path / "planned.bundle.run").exists()


def test_more_minutes_are_more_steps(
    parts: Listing, general: DiscreteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr("flawmap.train.run.train_detection", stop)  # once planned
    for minutes in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(parts, recipe(), tmp_path / f"{minutes}", general=general, minutes=minutes, quiet=True)
        found.append(json.loads((tmp_path / f"{minutes}.run" / budget.PLAN).read_text(encoding="utf-8")))
    # three photos are looked at in a second; 1.5 looks at each of 10, and at 8 with painted defects
    assert [plan["after_s"] for plan in found] == [9.0, 9.0]
    first, second = (plan["steps"] for plan in found)
    assert second - first == pytest.approx(0.95 * 120 / 0.1, abs=60)  # what is read takes a moment


@pytest.mark.parametrize(("memory", "seconds"), [(0, 6.0), (8, 7.0)])
def test_photos_of_which_places_are_remembered_take_a_look(
    memory: int, seconds: float, parts: Listing, general: DiscreteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "PHOTOS", 4)
    monkeypatch.setattr("flawmap.train.run.train_detection", stop)
    settings = ("model.familiarity=['imagenet']", f"model.memory={memory}")
    with pytest.raises(KeyboardInterrupt):
        train(parts, recipe(*settings), tmp_path / "part", general=general, minutes=1, quiet=True)
    plan = json.loads((tmp_path / "part.run" / budget.PLAN).read_text(encoding="utf-8"))
    assert plan["after_s"] == seconds  # 1.5 looks at each of 4, and at 8 with painted defects; half a one at 6 more


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_stopped_one_goes_on_by_its_plan(
    parts: Listing, general: DiscreteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "part.bundle"
    with monkeypatch.context() as patch:
        patch.setattr("flawmap.train.run.choose_threshold", stop)
        with pytest.raises(KeyboardInterrupt):
            train(parts, recipe(), out, general=general, minutes=0.45, quiet=True)
    plan = budget.planned(tmp_path / "part.bundle.run", None, True)
    assert plan is not None
    with pytest.raises(TrainingError, match=r"started with --minutes 0\.45; resume with the same"):
        train(parts, recipe(), out, general=general, minutes=4, resume=True, quiet=True)
    monkeypatch.setattr("flawmap.train.run.plan_steps", stop)  # it is not planned again
    bundle = train(parts, recipe(), out, general=general, resume=True, quiet=True)
    assert bundle.recipe.detect.steps == plan.steps
    assert bundle.provenance["minutes_asked"] == 0.45


def test_what_cannot_be_planned_is_refused(
    parts: Listing, general: DiscreteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match=r"0\.2 minutes are too few: .* give --minutes 1 or more"):
        train(parts, recipe(), tmp_path / "short", general=general, minutes=0.2, quiet=True)
    assert not (tmp_path / "short.run").exists(), "the command with more minutes is not refused for it"
    (tmp_path / "begun.run").mkdir()
    (tmp_path / "begun.run" / "mine.txt").touch()
    with pytest.raises(TrainingError, match="are too few"):
        train(parts, recipe(), tmp_path / "begun", general=general, minutes=0.2, resume=True, quiet=True)
    assert (tmp_path / "begun.run" / "mine.txt").exists(), "what was there before stays"
    with pytest.raises(ConfigError, match="refines too"):
        train(
            parts,
            recipe("refine.steps=5", "model.familiarity=[]"),
            tmp_path / "refining",
            general=general,
            minutes=5,
            quiet=True,
        )
    monkeypatch.setattr("flawmap.train.run.choose_threshold", stop)
    with pytest.raises(KeyboardInterrupt):
        train(parts, recipe("detect.steps=3"), tmp_path / "plain", general=general, quiet=True)
    with pytest.raises(TrainingError, match="started without --minutes"):
        train(parts, recipe("detect.steps=3"), tmp_path / "plain", general=general, resume=True, minutes=5, quiet=True)


def test_few_photos_get_no_more_steps_than_serve(parts: Listing, general: DiscreteModel, tmp_path: Path) -> None:
    few = recipe("few.below=100", "few.steps=25")
    bundle = train(parts, few, tmp_path / "few", general=general, minutes=1, quiet=True)
    assert bundle.recipe.detect.steps == 25
