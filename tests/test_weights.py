"""The weights that flawmap ships."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from safetensors import safe_open

from flawmap.bundle import load_general, load_prior
from flawmap.config import load_recipe, shipped_recipes

FOLDER = Path(str(resources.files("flawmap") / "weights"))
FILES = ["general.safetensors", "imagenet.safetensors", "lean.safetensors"]
LARGEST = 25_000_000  # bytes of all together: what a factory's network fetches without a second thought


def test_shipped_weights_are_together_no_larger_than_25_mb() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files if path.suffix == ".safetensors") == FILES
    assert sum(path.stat().st_size for path in files) <= LARGEST


@pytest.mark.parametrize("name", FILES)
def test_shipped_weights_are_stored_in_half_precision_and_described(name: str) -> None:
    with safe_open(FOLDER / name, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118  # a file, not a mapping
    assert kinds == {"F16"}
    assert f"# Model card: {name}" in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()


def test_every_prior_that_a_shipped_recipe_starts_from_is_shipped() -> None:
    priors = {load_recipe(name).model.prior for name in shipped_recipes()} - {""}
    assert priors == {"lean"}
    for prior in priors:
        load_prior(prior)
    load_general()
