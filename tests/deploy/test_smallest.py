"""The smallest spot found after a training: what few trials tell, what the bundle keeps of it, where it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import run, succeed
from deploy_helpers import TINY

from flawmap.bundle import Bundle, build, load_bundle, save_bundle, save_general, update_provenance
from flawmap.config import ImageSettings, load_recipe
from flawmap.data.images import read_pixels, write_image
from flawmap.data.scope import Scope
from flawmap.deploy import smallest
from flawmap.deploy.batch import page_provenance
from flawmap.deploy.smallest import measure_smallest
from flawmap.errors import BundleError, DataError
from flawmap.measure.scores import find_regions
from flawmap.measure.smallest import SMALLEST_FOUND, Smallest, smallest_of
from flawmap.measure.threshold import Threshold
from flawmap.model.discrete import DiscreteModel

FOUND = Smallest(13.2, (4.0, 80.0), 0.2, 12, 84, 0.5)


class Planted:
    """An inspector that rejects what differs from grey by more than 0.03 on at least `area` pixels."""

    area = 60.0

    def __init__(self, bundle: object, device: str) -> None:
        self.bundle, self.scope = bundle, Scope(ImageSettings())

    def read(self, path: Path) -> Any:
        return read_pixels(path)

    def inspect_read(self, images: list[np.ndarray]) -> list[Any]:
        return [self.inspect(image) for image in images]

    def inspect(self, image: Path | np.ndarray) -> Any:
        if isinstance(image, Path):
            return None
        changed = (np.abs(image.astype(np.float32).mean(2) / 255 - 0.5) > 0.03).astype(np.float32)
        regions = find_regions(changed, 0.5, min_area=1)
        largest = max((region.area for region in regions), default=0)
        return SimpleNamespace(defective=largest >= self.area, regions=regions, score=min(largest / 1000, 1.0))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Twenty grey photos of 128x128."""
    folder = tmp_path / "grey"
    folder.mkdir()
    for number in range(20):
        write_image(folder / f"{number:02}.png", np.full((128, 128, 3), 128, np.uint8))
    return sorted(folder.iterdir())


def untrained(held_out: int = 8) -> Bundle:
    """A bundle of 64x64 with a threshold."""
    recipe = load_recipe(TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=True).eval()
    return Bundle(model, recipe, Threshold(0.5, 0.5, 0.01, 20, True, "given", ""), {"held_out": held_out})


def test_the_smallest_spot_of_a_planted_detector_is_found(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees spots of 60 pixels and more: a diameter of 8.7. Photos have twice the network's pixels a side."""
    monkeypatch.setattr(smallest, "Inspector", Planted)
    found = measure_smallest(untrained(), photos)
    assert found.pixels is not None and 8.0 <= found.pixels <= 10.5
    assert (found.tried, found.contrast, found.photos, found.trials) == ((2.0, 40.0), 0.2, 12, 12 * 7)
    assert found.threshold == 0.5
    assert found == measure_smallest(untrained(), photos)
    monkeypatch.setattr(Planted, "area", 1e6)
    assert measure_smallest(untrained(), photos).pixels is None


def test_photos_that_nothing_learnt_from_are_tried_first(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[Path]] = []
    whole = smallest.run_trials

    def watched(inspector: Any, paths: Sequence[Path], **settings: Any) -> Any:
        tried.append(list(paths))
        return whole(inspector, paths, **settings)

    monkeypatch.setattr(smallest, "Inspector", Planted)
    monkeypatch.setattr(smallest, "run_trials", watched)
    for held_out in (8, 15):
        measure_smallest(untrained(held_out), photos)
    assert tried[0][:8] == photos[12:] and {*tried[0][8:]} < {*photos[:12]}
    assert len(tried[1]) == 12 and {*tried[1]} < {*photos[5:]}


def test_what_takes_too_long_or_has_too_few_photos_is_not_measured(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smallest, "Inspector", Planted)
    monkeypatch.setattr(smallest, "_seconds", lambda inspector, photo: 1.0)
    assert measure_smallest(untrained(), photos, seconds=50).photos == 6
    with pytest.raises(DataError, match=r"takes 1\.0 s"):
        measure_smallest(untrained(), photos, seconds=20)
    with pytest.raises(DataError, match="3 good photos are too few"):
        measure_smallest(untrained(), photos[:3])


def test_each_photo_is_inspected_by_what_the_others_tell_and_the_bundle_stays(
    trained: Path, metal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(trained)
    assert bundle.evidence is not None
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    paths = [metal / "train" / "good" / name for name in bundle.provenance["good_photos"]]
    left_out: list[int] = []
    wear = type(bundle.evidence).wear
    monkeypatch.setattr(
        type(bundle.evidence), "wear", lambda told, model, group: left_out.append(group) or wear(told, model, group)
    )
    chosen: list[Path] = []
    whole = smallest.run_trials

    def watched(inspector: Any, tried: Sequence[Path], **settings: Any) -> Any:
        chosen.extend(tried)
        return whole(inspector, tried, **settings)

    monkeypatch.setattr(smallest, "run_trials", watched)
    found = measure_smallest(bundle, paths)
    assert left_out == [int(bundle.evidence.groups[paths.index(path)]) for path in chosen]
    assert len(set(left_out)) > 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.model.state_dict().items())
    assert found.trials == 7 * found.photos


def test_it_is_said_in_whole_pixels_of_the_photo() -> None:
    assert str(FOUND) == "smallest spot found in 9 of 10: 14 pixels of the photo (contrast 20 %, 12 photos)"
    assert "at most 4 pixels of the photo" in str(Smallest(4.0, (4.0, 80.0), 0.2, 12, 84, 0.5))
    assert "larger than 80 pixels of the photo" in str(Smallest(None, (4.0, 80.0), 0.2, 12, 84, 0.5))


def test_it_is_known_as_long_as_the_threshold_is_the_same() -> None:
    provenance = json.loads(json.dumps({SMALLEST_FOUND: FOUND.to_json()}))
    assert smallest_of(provenance, 0.5) == FOUND
    assert smallest_of(provenance, 0.6) is None
    assert smallest_of(provenance, None) is None
    for wrong in ({}, {SMALLEST_FOUND: None}, {SMALLEST_FOUND: {"pixels": 3}}, {SMALLEST_FOUND: "14 pixels"}):
        assert smallest_of(wrong, 0.5) is None


def test_facts_are_added_to_a_bundle_and_all_else_stays(tmp_path: Path) -> None:
    save_bundle(untrained(), tmp_path / "b")
    before = json.loads((tmp_path / "b" / "bundle.json").read_text())
    update_provenance(tmp_path / "b", {SMALLEST_FOUND: FOUND.to_json()})
    after = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert after["provenance"] == {"held_out": 8, SMALLEST_FOUND: json.loads(json.dumps(FOUND.to_json()))}
    assert after.pop("facts_sha256") != before.pop("facts_sha256")
    assert {**after, "provenance": None} == {**before, "provenance": None}
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "bundle.json", "recipe.toml", "weights.safetensors",
    ]  # fmt: skip
    with pytest.raises(BundleError, match="is not a bundle"):
        update_provenance(tmp_path, {})


def test_a_report_says_from_which_size_to_which_and_what_is_found() -> None:
    bundle = untrained()
    bundle.provenance |= {"photo_size": [1000, 1400], SMALLEST_FOUND: FOUND.to_json(), "seed": 3}
    assert page_provenance(bundle) == {
        "held_out": 8,
        "seed": 3,
        "photos": "1400×1000 pixels, inspected at 64×64",
        "smallest spot found in 9 of 10": "14 pixels of the photo (contrast 20 %, 12 photos)",
    }


@pytest.fixture(scope="module")
def training(metal: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The command but for --out."""
    general = tmp_path_factory.mktemp("general") / "general.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_general(DiscreteModel(width=8, hidden=4, codes=32, code_length=8), general)
    settings = ("--set", "refine.steps=0", "--set", "threshold.held_out_min=5")
    return ("train", metal, "--config", TINY, "--general", general, "--quiet", *settings)


def test_a_training_measures_it_says_it_and_keeps_it(training: tuple[object, ...], metal: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.bundle"
    shown = succeed(*training, "--set", "threshold.smallest_found=true", "--out", out)
    bundle = load_bundle(out)
    assert bundle.threshold is not None
    found = smallest_of(bundle.provenance, bundle.threshold.score)
    assert found is not None and found.photos <= 5 and str(found) in shown.splitlines()
    assert "photos of 64×64 pixels are inspected at 64×64 (image.height = 64, image.width = 64)" in shown
    evaluated = succeed("evaluate", out, metal, "--out", tmp_path / "evaluated")
    assert str(found) in evaluated.splitlines()
    assert found.words in (tmp_path / "evaluated" / "report.html").read_text(encoding="utf-8")
    succeed("threshold", out, "--value", "0.999")
    assert "smallest spot" not in succeed("evaluate", out, metal)


def test_what_stops_the_measurement_stops_no_training(
    training: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "smallest spot" not in succeed(*training, "--out", tmp_path / "off.bundle")

    def stopped(*_: object) -> Smallest:
        raise KeyboardInterrupt

    monkeypatch.setattr(smallest, "measure_smallest", stopped)
    result = run(*training, "--set", "threshold.smallest_found=true", "--out", tmp_path / "part.bundle")
    assert result.exit_code == 0
    assert "smallest spot found in 9 of 10: not measured, stopped" in result.stdout.splitlines()
    assert SMALLEST_FOUND not in load_bundle(tmp_path / "part.bundle").provenance
