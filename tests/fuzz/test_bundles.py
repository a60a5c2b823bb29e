"""Bundles changed at random: one line that refuses, or the right result; never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from mutations import changed_text, changed_value, mutations

from flawmap.bundle import Bundle, load_bundle
from flawmap.bundle_facts import sealed
from flawmap.deploy.batch import page_provenance
from flawmap.deploy.evaluation import threshold_at
from flawmap.deploy.suspects import suspects
from flawmap.errors import BundleError, FlawmapError
from flawmap.station.models import _read

COUNT = mutations("bundles", 3)


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
