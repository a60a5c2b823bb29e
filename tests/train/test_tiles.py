"""Training on tiles of large images: resume, threshold by the path of inspection, bounded reading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawmap.bundle import Bundle
from flawmap.config import load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.large import GoodTiles
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy.inspector import load
from flawmap.errors import ImageError
from flawmap.model.discrete import DiscreteModel
from flawmap.train import run

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = ["image.policy=tile", "detect.steps=6", "refine.steps=4", "run.checkpoint_seconds=0"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, "brushed-metal", size=160, train=8, good=1, bad=1, seed=0)
    return folder


def train(parts: Path, out: Path, *settings: str, resume: bool = False) -> Bundle:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    recipe = load_recipe(TINY, [*SETTINGS, *settings])
    return run.train(read_layout(parts), recipe, out, general=general, quiet=True, resume=resume)


def sha(bundle: Path) -> str:
    return hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("stopped_at", [4, 8])
def test_a_training_on_tiles_resumes_to_the_same_weights(
    stopped_at: int, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(parts, tmp_path / "whole")
    draw, drawn = GoodTiles.draw, 0

    def stopping(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        if drawn == stopped_at:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GoodTiles, "draw", stopping)
        train(parts, tmp_path / "stopped")
    assert all(
        file.suffix in (".safetensors", ".json", ".jsonl", ".toml") for file in (tmp_path / "stopped.run").iterdir()
    )
    # How much fits on the disk must not matter.
    train_again = train(parts, tmp_path / "stopped", resume=True)
    assert train_again.provenance["resumed"]
    assert sha(tmp_path / "stopped") == sha(tmp_path / "whole")


def test_what_fits_on_the_disk_does_not_change_the_weights(parts: Path, tmp_path: Path) -> None:
    train(parts, tmp_path / "kept")
    train(parts, tmp_path / "decoded", "run.disk_cache_gb=0")
    assert sha(tmp_path / "kept") == sha(tmp_path / "decoded")


def test_the_threshold_comes_from_the_path_of_inspection(parts: Path, tmp_path: Path) -> None:
    """The scores of the held-out images are those that the finished bundle gives to the same files."""
    out = tmp_path / "part.bundle"
    bundle = train(parts, out, "image.include=[[[0, 0], [0.7, 0], [0.7, 1], [0, 1]]]", "image.scale=0.8")
    _, held_out = run.hold_out(
        [sample.image for sample in read_layout(parts).train_good], bundle.recipe.threshold, bundle.recipe.run.seed
    )
    inspector = load(out, device="cpu")
    found = [inspector.inspect(path) for path in held_out]
    assert len(found) == 2
    assert [each.score for each in found] == pytest.approx(bundle.provenance["held_out_scores"], abs=1e-6)
    peaks = [float(each.network_map.max()) for each in found]
    assert peaks == pytest.approx(bundle.provenance["held_out_peaks"], abs=1e-6)
    assert found[0].network_map.shape == (128, 128)


@pytest.mark.parametrize("policy", ["tile", "resize"])
def test_training_with_an_ignore_mask_hands_it_over(policy: str, parts: Path, tmp_path: Path) -> None:
    mask = np.zeros((160, 160), np.uint8)
    mask[:80] = 255
    write_image(tmp_path / "ignore.png", mask)
    settings = [f"image.policy={policy}", f"image.ignore={tmp_path / 'ignore.png'}", "detect.steps=1", "refine.steps=1"]
    bundle = train(parts, tmp_path / "part.bundle", *settings)
    (tmp_path / "ignore.png").unlink()
    inspector = load(tmp_path / "part.bundle", device="cpu")
    found = inspector.inspect(sorted(parts.rglob("test/good/*.png"))[0])
    assert (found.map[:80] == 0).all() and found.map[80:].max() > 0
    _, held_out = run.hold_out(
        [sample.image for sample in read_layout(parts).train_good], bundle.recipe.threshold, bundle.recipe.run.seed
    )
    scores = [inspector.inspect(path).score for path in held_out]
    # Training images of the policy `resize` are kept with 16 bits.
    assert scores == pytest.approx(bundle.provenance["held_out_scores"], abs=1e-3)


def test_a_broken_held_out_image_stops_the_training_before_it_starts(parts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "parts" / "train" / "good"
    copy.mkdir(parents=True)
    for path in sorted(parts.rglob("train/good/*.png")):
        (copy / path.name).write_bytes(path.read_bytes())
    recipe = load_recipe(TINY, SETTINGS)
    _, held_out = run.hold_out(sorted(copy.iterdir()), recipe.threshold, recipe.run.seed)
    held_out[0].write_bytes(held_out[0].read_bytes()[:500])
    with pytest.raises(ImageError, match=held_out[0].name):
        train(tmp_path / "parts", tmp_path / "part.bundle")
    assert not (tmp_path / "part.bundle.run").exists(), "with another photo in its place, the same command goes on"
    assert read_image(held_out[1]).shape == (160, 160, 3)
