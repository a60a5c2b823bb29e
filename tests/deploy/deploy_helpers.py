"""What several tests of exports build."""

from __future__ import annotations

from pathlib import Path

import torch

from flawmap.bundle import build
from flawmap.config import Recipe, load_recipe
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import LOW, surroundings

TINY = Path(__file__).parents[1] / "tiny.toml"


def remembering(*kinds: str) -> tuple[Recipe, DSR]:
    """An untrained model of 64x64 with these kinds of familiarity, which remembers places.

    Its codebooks are as large as real ones: small ones an exporter computes beforehand.
    """
    named = ", ".join(f'"{kind}"' for kind in kinds)
    settings = ['model.norm="batch"', "model.codes=1024", "model.code_length=32", "refine.steps=0"]
    recipe = load_recipe(TINY, [*settings, "model.guided=true", f"model.familiarity=[{named}]"])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        model = build(recipe.model, with_refinement=False).eval()
        assert model.familiarity is not None and model.imagenet is not None
        around = surroundings(model.imagenet(torch.rand(64, 3, 64, 64)))
        dict(model.familiarity.named_densities())[LOW].remember(around.permute(0, 2, 3, 1).flatten(0, 2))
    return recipe, model
