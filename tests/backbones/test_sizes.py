"""A backbone of one's own where a working size is chosen, and where a recipe is timed: it counts, not Lite0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import torch
from networks import Squeezed, written
from torch.utils.flop_counter import FlopCounterMode

from flawmap.backbones.read import read_backbone
from flawmap.bundle import build
from flawmap.config import ImageSettings, load_recipe
from flawmap.data.images import write_image
from flawmap.data.scope import Scope
from flawmap.deploy.recipe_choice import untrained
from flawmap.model.onnx_backbone import BackboneFeatures
from flawmap.train.size import choose_size, gflop

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = ["model.familiarity=['imagenet', 'imagenet_high']", "model.memory=20", "model.norm=batch", "refine.steps=0"]


@pytest.fixture
def net(tmp_path: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return f"model.backbone={written(Squeezed(), tmp_path / 'net.onnx', size=(64, 64))}"


def test_its_gflop_are_counted(net: str) -> None:
    recipe = load_recipe(TINY, [*SETTINGS, net])
    model = build(recipe.model, with_refinement=False, backbone=read_backbone(recipe.model, (64, 64))).eval()
    assert model.familiarity is not None
    for _, density in model.familiarity.named_densities():
        density.remember(torch.rand(20, len(density.mean)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 64, 64))
    counted = [round(1e9 * gflop(each)) for each in (recipe, load_recipe(TINY, SETTINGS))]
    assert counted[0] == counter.get_total_flops() != counted[1]


def test_its_features_tell_marks(net: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(9):
        write_image(tmp_path / "photos" / f"{number}.png", rng.integers(100, 130, (96, 96, 3), np.uint8))
    paths = sorted((tmp_path / "photos").iterdir())
    sides = [ImageSettings(height=side, width=side) for side in (64, 96)]
    model = load_recipe(TINY, [*SETTINGS, net]).model
    found = choose_size(paths, sides, Scope(ImageSettings()), model=model)
    lite0 = choose_size(paths, sides, Scope(ImageSettings()), model=load_recipe(TINY, SETTINGS).model)
    assert set(found.aurocs) == {64, 96} and found.aurocs != lite0.aurocs


def test_a_model_that_is_timed_has_it(net: str) -> None:
    assert isinstance(untrained(load_recipe(TINY, [*SETTINGS, net])).model.imagenet, BackboneFeatures)
