"""Versions of models and which is in use, without workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flawmap.bundle import BACKBONE, EVIDENCE, IGNORE, PHOTOS, RECIPE, WEIGHTS, update_threshold, update_white
from flawmap.bundle_facts import sealed
from flawmap.errors import StationError
from flawmap.station.audit import audit
from flawmap.station.models import FILES, Models, used
from flawmap.station.record import Record


class Loaded:
    """Workers that load everything at once."""

    def load(self, ref: str, path: Path) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.fixture
def opened(models: Path, tmp_path: Path) -> Iterator[Callable[[], Models]]:
    """Opens the models of one folder and record again, as a station does that starts."""
    shutil.copytree(models / "part.bundle", tmp_path / "models" / "part.bundle")
    record = Record(f"sqlite:///{tmp_path / 'record.sqlite'}")

    def again() -> Models:
        found: Any = Models(tmp_path / "models", record, Loaded())  # type: ignore[arg-type]
        found.start()
        return found  # type: ignore[no-any-return]

    yield again
    assert audit(record).whole
    record.close()


def test_a_model_that_is_gone_is_replaced_in_the_record_too(opened: Callable[[], Models], tmp_path: Path) -> None:
    models = opened()
    for score in (0.2, 0.3):
        models.use(models.with_threshold("part@1", score, None, "anna", "").ref, "anna")
    assert (models.current.ref if models.current else None, models.previous) == ("part@3", "part@2")
    shutil.move(tmp_path / "models" / "part@3.bundle", tmp_path / "away")
    models = opened()
    assert (models.current.ref if models.current else None, models.previous) == ("part@2", "part@1")
    assert used(models.record)[-1] == "part@2", "the record says which one inspects"
    assert opened()._used == ["part@1", "part@2"], "it is told once"
    shutil.move(tmp_path / "away", tmp_path / "models" / "part@3.bundle")
    models = opened()
    assert models.current is not None and models.current.ref == "part@2", "it does not come back by itself"
    assert models.roll_back("anna").ref == "part@3"


def test_a_smallest_place_of_the_station_itself_is_not_hidden_by_one_of_a_model(opened: Callable[[], Models]) -> None:
    models = opened()
    made = models.with_threshold("part@1", None, None, "anna", "", ("0.5 mm", 0.05))
    assert (made.smallest, made.origin, made.threshold) == (
        79,
        "smallest place of part@1",
        models.find("part@1").threshold,
    )
    models.smallest = 30
    assert models.facts(made)["smallest"] == 30
    with pytest.raises(StationError, match=r"verdict\.smallest of this station, 30 pixels.*take it out"):
        models.with_threshold("part@1", None, None, "anna", "", (20, None))


def test_a_bundle_that_is_changed_after_it_was_loaded_is_told_as_it_was_loaded(
    opened: Callable[[], Models], tmp_path: Path
) -> None:
    models = opened()
    (before,) = (models.facts(version) for version in models.versions())
    assert (before["white"], before["loaded"], before["why"]) == (65535, True, "")
    update_white(tmp_path / "models" / "part.bundle", 4095)
    (now,) = (models.facts(version) for version in models.versions())
    assert now | {"why": "", "why_code": ""} == before, "it inspects as before"
    assert now["why_code"] == "changed" and now["why"].startswith("part@1 was changed after it was loaded")
    (again,) = (other.facts(version) for other in [opened()] for version in other.versions())
    assert (again["white"], again["why"]) == (4095, "")


def test_advice_on_the_level_is_for_the_next_free_version(opened: Callable[[], Models], tmp_path: Path) -> None:
    models = opened()
    assert models.current is not None
    (tmp_path / "models" / "part@2.bundle").mkdir()  # nothing that can be read
    text = "say so once: flawmap white BUNDLE 4095; else check light"
    folder = tmp_path / "models"
    assert models.advised(models.current, text) == (
        f"say so once: flawmap white {folder / 'part.bundle'} 4095 --out {folder / 'part@3.bundle'}, "
        "and use part@3 then (POST /api/models/part@3/use); else check light"
    )


def test_a_roll_back_ends_with_the_first_model(opened: Callable[[], Models]) -> None:
    models = opened()
    models.use(models.with_threshold("part@1", 0.2, None, "anna", "").ref, "anna")
    told: list[tuple[str, str]] = []
    models.told = lambda row: told.append((row["who"], row["model"]))
    assert models.roll_back("anna").ref == "part@1"
    assert told == [("anna", "part@1")]
    with pytest.raises(StationError, match="no other model"):
        models.roll_back("anna")


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.toml", "photos.safetensors"])
def test_a_bundle_that_is_not_whole_is_not_used(opened: Callable[[], Models], tmp_path: Path, name: str) -> None:
    shutil.copytree(tmp_path / "models" / "part.bundle", tmp_path / "models" / "part@2.bundle")
    (tmp_path / "models" / "part@2.bundle" / name).unlink()
    models = opened()
    assert models.current is not None and models.current.ref == "part@1"
    assert [models.facts(version)["usable"] for version in models.versions()] == [False, True]
    for refused in (lambda: models.use("part@2", "anna"), lambda: models.with_threshold("part@2", 0.2, None, "", "")):
        with pytest.raises(StationError, match=f"part@2 is not whole: it has no {name}; copy the bundle again"):
            refused()


def test_a_model_without_a_threshold_is_told_as_such(opened: Callable[[], Models], tmp_path: Path) -> None:
    update_threshold(tmp_path / "models" / "part.bundle", None)
    models = opened()
    (told,) = map(models.facts, models.versions())
    assert (models.current, told["usable"], told["why_code"]) == (None, False, "no-threshold")
    with pytest.raises(StationError, match="part@1 has no threshold; set one with"):
        models.use("part@1", "anna")


@pytest.mark.parametrize("tail", ["observed", "estimated"])
def test_a_new_threshold_promises_what_the_independent_groups_allow(
    opened: Callable[[], Models], tmp_path: Path, tail: str
) -> None:
    part = tmp_path / "models" / "part.bundle"
    old = opened().with_threshold("part@1", None, 0.1, "anna", "").threshold
    assert old is not None and old.supported and old.note == "", "of 30 photos, nothing is known of groups"
    note = json.loads((part / "bundle.json").read_text(encoding="utf-8"))
    note["provenance"]["groups"] = {"count": 8, "by": "order"}
    recipe = (part / "recipe.toml").read_text(encoding="utf-8").replace('tail = "observed"', f'tail = "{tail}"')
    (part / "recipe.toml").write_text(recipe, encoding="utf-8")
    del note["recipe_sha256"]
    (part / "bundle.json").write_text(sealed(note, part), encoding="utf-8")
    models = opened()
    few, enough = (models.with_threshold("part@1", None, share, "anna", "").threshold for share in (0.1, 0.12))
    assert few is not None and enough is not None
    assert not few.supported and few.note.startswith("No promise: 8 independent groups (by order of capture); 9 are")
    assert enough.note.startswith("The 30 good images are of 8 independent groups")
    highest = max(models.find("part@1").held_out_scores)
    assert few.score == highest if tail == "observed" else few.score < highest, "as the recipe has it"


def test_the_files_looked_for_are_those_of_a_bundle() -> None:
    # models.py names them without importing torch
    assert list(FILES) == [WEIGHTS, RECIPE, IGNORE, PHOTOS, EVIDENCE, BACKBONE]
