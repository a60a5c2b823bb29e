"""What a bundle says of itself is noticed when it changed, and is read with types and bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flawmap import bundle_facts
from flawmap.bundle import Bundle, build, load_bundle, save_bundle, update_provenance, update_threshold
from flawmap.bundle_facts import check_texts, checked_facts, seal_of, sealed
from flawmap.config import load_recipe
from flawmap.errors import BundleError
from flawmap.measure.threshold import Threshold

TINY = [
    "image.height=32", "image.width=32", "model.codes=16", "model.code_length=8", "model.discrete_width=8",
    "model.discrete_hidden=4", "model.restriction_widths=[8, 8, 8]", "model.decoder_widths=[8, 8, 8]",
    "model.detection_width=4", "refine.steps=0",
]  # fmt: skip
LIMIT = Threshold(0.31, 0.5, overkill=0.01, held_out=3, supported=False, method="held-out good", note="Few.")
FACTS = {"data": "Blech", "held_out_scores": [0.1, 0.2, 0.31], "held_out_peaks": [0.2, 0.3, 0.5], "groups": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    recipe = load_recipe(None, TINY)
    with torch.random.fork_rng():
        model = build(recipe.model, with_refinement=False)
    (tmp_path / "log").write_text('{"step": 1}\n')
    save_bundle(Bundle(model, recipe, LIMIT, dict(FACTS)), tmp_path / "part.bundle", metrics=tmp_path / "log")
    return tmp_path / "part.bundle"


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(BundleError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def note_of(path: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    return note


def as_before_hashes(path: Path, **changes: Any) -> None:
    """As a flawmap without these hashes wrote it."""
    kept = {name: value for name, value in note_of(path).items() if name not in ("facts_sha256", "recipe_sha256")}
    (path / "bundle.json").write_text(json.dumps(kept | changes, indent=1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"), [("0.31,", "0.91,"), ("0.5,", "0.6,"), ('"Blech"', '"Glas"'), ("0.2,", "0.3,")]
)
def test_one_changed_fact_is_noticed_by_all_that_read_or_write_it(old: str, new: str, path: Path) -> None:
    text = (path / "bundle.json").read_text(encoding="utf-8")
    assert old in text
    (path / "bundle.json").write_text(text.replace(old, new, 1), encoding="utf-8")
    for action in (
        lambda: load_bundle(path),
        lambda: update_threshold(path, LIMIT),
        lambda: update_provenance(path, {"seed": 1}),
    ):
        assert "bundle.json was changed since flawmap wrote it" in refusal(action)


@pytest.mark.parametrize("lost", [["facts_sha256"], ["recipe_sha256"], ["facts_sha256", "recipe_sha256"]])
@pytest.mark.parametrize("left", ["missing", "null"])
def test_a_bundle_of_a_format_that_always_has_hashes_is_refused_without_them(
    lost: list[str], left: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_facts, "FORMAT", 3)
    note, file = note_of(path), path / "bundle.json"

    def text(number: int, without: list[str]) -> str:
        facts = note | {"format": number}
        facts = {name: fact for name, fact in facts.items() if name not in without}
        facts |= {name: None for name in without if left == "null"}
        if "facts_sha256" not in without:
            facts["facts_sha256"] = seal_of(facts)
        return json.dumps(facts)

    assert checked_facts(text(3, []), file)["format"] == 3
    message = refusal(lambda: checked_facts(text(3, lost), file))
    assert f"lacks {lost[0]}, which flawmap writes into every bundle of format 3" in message
    if left == "missing":
        assert checked_facts(text(2, lost), file)["format"] == 2, "one of before has none"


def test_a_text_without_a_hash_beside_such_a_bundle_is_refused(path: Path) -> None:
    note = note_of(path)
    del note["metrics_sha256"]
    check_texts(note, path)
    assert "metrics.jsonl has no hash in bundle.json" in refusal(lambda: check_texts(note | {"format": 3}, path))


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.jsonl"])
def test_a_changed_text_is_noticed(name: str, path: Path) -> None:
    (path / name).write_text((path / name).read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    for action in (lambda: load_bundle(path), lambda: update_threshold(path, None)):
        assert f"{name} was changed since flawmap wrote it" in refusal(action)


def test_line_ends_and_byte_order_marks_are_no_change(path: Path) -> None:
    for name in ("bundle.json", "recipe.toml", "metrics.jsonl"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))
    assert load_bundle(path).threshold == LIMIT


def test_what_is_written_with_other_spaces_and_order_is_no_change(path: Path) -> None:
    note = note_of(path)
    (path / "bundle.json").write_text(json.dumps(dict(reversed(note.items()))), encoding="utf-8")
    assert load_bundle(path).provenance == FACTS


def test_a_bundle_without_the_course_of_its_losses_loads(path: Path) -> None:
    (path / "metrics.jsonl").unlink()
    assert load_bundle(path).threshold == LIMIT


def test_a_bundle_from_before_these_hashes_loads_and_gets_them_with_its_next_threshold(path: Path) -> None:
    before = load_bundle(path)
    as_before_hashes(path)
    assert (load_bundle(path).threshold, load_bundle(path).recipe) == (before.threshold, before.recipe)
    update_threshold(path, LIMIT)
    assert {"facts_sha256", "recipe_sha256"} < note_of(path).keys()
    recipe = (path / "recipe.toml").read_text(encoding="utf-8")
    (path / "recipe.toml").write_text(recipe.replace("overkill = 0.01", "overkill = 0.02"), encoding="utf-8")
    assert "recipe.toml was changed" in refusal(lambda: load_bundle(path))


def test_a_name_that_is_no_valid_unicode_can_be_kept(path: Path) -> None:
    name = b"photo-\xff.png".decode("utf-8", "surrogateescape")
    update_provenance(path, {"good_photos": [name, "b", "c"]})
    assert load_bundle(path).provenance["good_photos"][0] == name


@pytest.mark.parametrize("key", ["score", "pixel", "overkill"])
@pytest.mark.parametrize("value", ["true", '"0.5"', "NaN", "Infinity", "1e999", "1.5", "-1", "-0.001", "null", "[0.5]"])
def test_a_threshold_is_a_number_from_0_to_1(key: str, value: str, path: Path) -> None:
    as_before_hashes(path, threshold={**note_of(path)["threshold"], key: "HERE"})
    text = (path / "bundle.json").read_text(encoding="utf-8").replace('"HERE"', value)
    (path / "bundle.json").write_text(text, encoding="utf-8")
    assert f"threshold.{key}" in refusal(lambda: load_bundle(path))


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, 5e-324])
def test_the_ends_of_the_range_are_thresholds_too(value: float, path: Path) -> None:
    as_before_hashes(path, threshold={**note_of(path)["threshold"], "score": value})
    found = load_bundle(path).threshold
    assert found is not None and found.score == value


@pytest.mark.parametrize(
    "facts",
    [
        {"held_out_scores": 1},
        {"held_out_scores": ["0.1"]},
        {"held_out_scores": [True]},
        {"held_out_scores": [2.0]},
        {"held_out_scores": [0.1], "held_out_peaks": [0.1, 0.2]},
        {"groups": 3},
        {"groups": [1]},
        {"groups": {"count": 10**30}},
        {"groups": {"count": -1}},
        {"held_out_folders": 10**400},
        {"held_out": "8"},
        {"set_aside_share": 1.5},
        {"good_photos": "a.png"},
        {"set_aside": ["a"], "set_aside_scores": [0.1, 0.2]},
        {"photo_size": [3]},
        {"photo_size": [0, 10**12]},
        {"evidence": {"map": "high"}},
        {"real_defects": 4},
        {"reconstruction_detail": 1e301},
    ],
)
def test_facts_that_are_computed_with_have_their_types_and_bounds(facts: dict[str, Any], path: Path) -> None:
    as_before_hashes(path, provenance=facts)
    message = refusal(lambda: load_bundle(path))
    assert f"provenance.{next(iter(facts))}" in message or "provenance" in message
    (path / "bundle.json").write_text(sealed(note_of(path), path), encoding="utf-8")
    assert refusal(lambda: load_bundle(path)) == message


def test_json_that_is_nested_without_end_is_refused(path: Path) -> None:
    (path / "bundle.json").write_text("[" * 200_000, encoding="utf-8")
    assert "cannot be read" in refusal(lambda: load_bundle(path))
