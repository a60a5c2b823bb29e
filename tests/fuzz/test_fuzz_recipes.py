"""Damaged settings: recipes, a station's settings, --set. One line that refuses, or settings that are written back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from mutations import NUMBERS, STRANGE, WORDS, changed_text, held_to_bounds, mutations

from flawmap.config import Recipe, dump_recipe, load_recipe, recipe_from_text, shipped_recipes
from flawmap.station.settings import StationSettings, load_settings

EVERY = dump_recipe(load_recipe())
STATION = """name = "line 3"
[verdict]
doubt = 0.02
[queue]
deadline_s = 5.0
[shift]
starts = ["06:00", "14:00", "22:00"]
zone = "Europe/Berlin"
[keep]
gigabytes = 50
"""


@pytest.mark.parametrize("kind", ["all settings", "shipped", "station"])
def test_mutated_settings_are_one_line_or_settings_that_hold(kind: str, tmp_path: Path) -> None:
    shipped = [dump_recipe(load_recipe(name)) for name in shipped_recipes()]
    file = tmp_path / "settings.toml"
    for number in range(mutations("recipes", 4)):
        chance = random.Random(f"{kind} {number}")
        text = {"all settings": EVERY, "station": STATION}.get(kind) or chance.choice(shipped)
        file.write_bytes(changed_text(text, chance))
        with held_to_bounds(f"mutation {number}"):
            if kind == "station":
                assert isinstance(load_settings(file), StationSettings)
            else:
                recipe = load_recipe(file)
                assert isinstance(recipe, Recipe)
                assert dump_recipe(recipe_from_text(dump_recipe(recipe))) == dump_recipe(recipe), f"mutation {number}"


def test_a_mutated_set_is_one_line_or_a_setting() -> None:
    every = load_recipe().model_dump()
    names = [f"{section}.{name}" for section, values in every.items() for name in values]
    for number in range(mutations("recipes", 4)):
        chance = random.Random(f"set {number}")
        given: Any = chance.choice([chance.choice(NUMBERS), chance.choice(WORDS), json.dumps(chance.choice(STRANGE))])
        text = f"{chance.choice(names)}={given}"
        if chance.random() < 0.3:
            text = changed_text(text, chance).decode("utf-8", "replace")
        with held_to_bounds(f"mutation {number}"):
            load_recipe("fast", [text])
        with held_to_bounds(f"mutation {number}"):
            load_settings(None, [text])
