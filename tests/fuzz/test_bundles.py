"""Bundles changed at random: one line that refuses, or the right result; never a traceback."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flawmap.bundle import Bundle, build, load_bundle, save_bundle
from flawmap.bundle_facts import sealed
from flawmap.config import load_recipe
from flawmap.deploy.batch import page_provenance
from flawmap.deploy.evaluation import threshold_at
from flawmap.deploy.suspects import suspects
from flawmap.errors import BundleError, FlawmapError
from flawmap.measure.threshold import Threshold
from flawmap.station.models import _read

COUNT = int(os.environ.get("FLAWMAP_FUZZ", "300"))
TINY = [
    "image.height=32", "image.width=32", "model.codes=16", "model.code_length=8", "model.discrete_width=8",
    "model.discrete_hidden=4", "model.restriction_widths=[8, 8, 8]", "model.decoder_widths=[8, 8, 8]",
    "model.detection_width=4", "refine.steps=0",
]  # fmt: skip
SCORES = [0.11, 0.23, 0.31]
FACTS: dict[str, Any] = {
    "flawmap": "0.2", "created": "2026-01-01T00:00:00+00:00", "data": "Blech", "layout": "folder", "trained_on": 20,
    "photo_size": [480, 640], "inspected_at": [32, 32], "varied": False, "held_out": 3, "calibration": "held-out good",
    "held_out_folders": 2, "groups": {"count": 3, "by": "order"}, "reconstruction_detail": 0.4, "seed": 0,
    "orientation": {"photos": 8, "apart": 0.0, "as_they_lie": 0.5, "turned": 0.5, "any_turn": 0.1},
    "smallest_found": {
        "pixels": 12.5, "tried": [2.0, 64.0], "contrast": 0.2, "photos": 3, "trials": 90, "threshold": 0.31
    },
    "machine": "2 CPU threads", "minutes": 3.5, "resumed": False, "peak_memory_mb": 900, "real_defects": ["a.png"],
    "evidence": {"map": 0.9}, "held_out_scores": SCORES, "held_out_peaks": SCORES, "good_photos": ["a", "b", "c"],
    "set_aside": ["d"], "set_aside_scores": [0.7], "set_aside_sha256": ["ff"], "set_aside_share": 0.05,
}  # fmt: skip
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**9, 10**19, -(10**400), 0.5, 1.5, -0.0, 1e300, float("nan"), float("inf"), "",
    "0.5", "x" * 2000, "\ud800", "\x00", [], [[]], [None], [True, "a"], {}, {"count": []}, {"score": {}}, [1] * 50,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe(None, TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=False)
    limit = Threshold(0.31, 0.31, overkill=0.05, held_out=3, supported=False, method="held-out good", note="Few.")
    path = tmp_path_factory.mktemp("bundles") / "part.bundle"
    save_bundle(Bundle(model, recipe, limit, FACTS), path)
    return path


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Each (object or list, key or number) in `value`."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        places(value[key], found)
    return found


def changed_value(note: dict[str, Any], chance: random.Random) -> str:
    """The note with one value replaced, doubled, moved or taken out."""
    note = copy.deepcopy(note)
    holder, key = chance.choice(places(note, []))
    way = chance.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * chance.choice([-1, 10, 1.0000001, 0.5])
    elif way == 2:
        holder[key] = chance.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])
    else:
        holder[key] = chance.choice(STRANGE)
    return json.dumps(note)


def changed_text(text: str, chance: random.Random) -> bytes:
    """The file with a byte changed, taken out or put in, a digit replaced, or its end cut off."""
    data = bytearray(text.encode())
    place, way = chance.randrange(len(data)), chance.randrange(5)
    digits = [number for number, byte in enumerate(data) if chr(byte).isdigit()]
    if way == 0:
        data[place] = chance.randrange(256)
    elif way == 1:
        del data[place : place + chance.randrange(1, 9)]
    elif way == 2:
        data[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5)))
    elif way == 3:
        data[chance.choice(digits)] = ord(chance.choice("0123456789"))
    else:
        del data[place:]
    return bytes(data)


def use(path: Path) -> Bundle:
    """Do with a bundle what commands and the station do with the facts in it."""
    bundle = load_bundle(path)
    for action in (lambda: threshold_at(bundle, 0.05), lambda: suspects(bundle, path), lambda: page_provenance(bundle)):
        try:
            action()
        except FlawmapError as problem:
            assert "\n" not in str(problem)
    return bundle


@pytest.mark.parametrize("hashes", [True, False])
def test_a_changed_bundle_json_is_refused_in_one_line_or_gives_the_right_result(
    hashes: bool, whole: Path, tmp_path: Path
) -> None:
    """Without hashes, as of an earlier flawmap, or with right ones of what was changed on purpose, nothing breaks."""
    right = load_bundle(whole)
    text = (whole / "bundle.json").read_text(encoding="utf-8")
    note = {name: value for name, value in json.loads(text).items() if hashes or not name.endswith("s_sha256")}
    path = tmp_path / "part.bundle"
    shutil.copytree(whole, path)
    refused = 0
    for seed in range(COUNT):
        chance = random.Random(seed)
        made = changed_value(note, chance) if seed % 2 else changed_text(json.dumps(note, indent=1), chance)
        (path / "bundle.json").write_bytes(made.encode() if isinstance(made, str) else made)
        try:
            found = use(path)
        except BundleError as problem:
            refused += 1
            assert "\n" not in str(problem) and str(path) in str(problem), seed
        else:
            if hashes and "facts_sha256" in json.loads((path / "bundle.json").read_text(encoding="utf-8")):
                assert (found.threshold, found.provenance) == (right.threshold, right.provenance), seed
            assert found.threshold is None or 0 <= found.threshold.score <= 1, seed
        listed = _read(path)
        assert listed is None or listed.threshold is None or 0 <= listed.threshold.score <= 1, seed
    assert refused > COUNT // 4


def test_facts_changed_on_purpose_break_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.bundle"
    shutil.copytree(whole, path)
    note = json.loads((whole / "bundle.json").read_text(encoding="utf-8"))
    for seed in range(COUNT):
        chance = random.Random(f"on purpose {seed}")
        changed = json.loads(changed_value({name: note[name] for name in ("threshold", "provenance")}, chance))
        try:
            made = sealed({**{name: note[name] for name in note if name not in changed}, **changed}, path)
        except ValueError:  # not finite: nothing that flawmap writes
            continue
        (path / "bundle.json").write_text(made, encoding="utf-8", errors="backslashreplace")
        try:
            use(path)
        except BundleError as problem:
            assert "\n" not in str(problem), seed


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.jsonl", "weights.safetensors"])
def test_a_changed_file_is_refused_in_one_line(name: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.bundle"
    shutil.copytree(whole, path)
    if not (path / name).exists():
        (path / name).write_text('{"step": 1}\n')
        facts = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
        (path / "bundle.json").write_text(sealed(facts, path), encoding="utf-8")
    data = (path / name).read_bytes()
    for seed in range(COUNT // 10):
        chance, changed = random.Random(f"{name} {seed}"), bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (path / name).write_bytes(changed)
        with pytest.raises(BundleError, match=name) as caught:
            load_bundle(path)
        assert "\n" not in str(caught.value)
