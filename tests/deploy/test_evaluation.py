"""What an evaluation hands on from the bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flawmap.bundle import Bundle, build
from flawmap.config import load_recipe
from flawmap.deploy.evaluation import good_parts
from flawmap.measure.evaluate import ImageResult
from flawmap.measure.threshold import Groups, Tail, choose_threshold, promised_share

TINY = Path(__file__).parents[1] / "tiny.toml"
PHOTOS = [number / 100 for number in range(90)]


def bundle_of(groups: int | None, *settings: str) -> Bundle:
    recipe = load_recipe(TINY, ["refine.steps=0", *settings])
    told = {} if groups is None else {"groups": {"count": groups, "by": "folder"}}
    limit = choose_threshold(PHOTOS, PHOTOS, 0.05)
    return Bundle(build(recipe.model, with_refinement=False), recipe, limit, {"held_out_scores": PHOTOS, **told})


def row(name: str, defective: bool, score: float) -> ImageResult:
    return ImageResult(name, "bad" if defective else "good", defective, score, 0.5, np.zeros((2, 2)), None)


@pytest.mark.parametrize("tail", ["observed", "estimated"])
@pytest.mark.parametrize("groups", [None, 9, 50])
def test_good_parts_are_held_to_what_the_bundles_groups_and_tail_promise(groups: int | None, tail: Tail) -> None:
    rows = [row(f"{score}.png", False, score) for score in (0.2, 0.95, 0.4)]
    found = good_parts(bundle_of(groups, f"threshold.tail={tail}"), [*rows, row("bad.png", True, 0.99)])
    assert found is not None
    assert (found.parts, found.above) == (3, 1), "defective parts have no say"
    known = Groups() if groups is None else Groups(groups, "folder")
    assert found.promised == promised_share(0.05, 90, known, tail)
    assert (found.promised > 0.05) == (groups == 9 or (groups == 50 and tail == "estimated"))


def test_without_a_threshold_or_known_scores_nothing_is_compared() -> None:
    rows = [row("a.png", False, 0.2)]
    bundle = bundle_of(None)
    assert good_parts(dataclasses.replace(bundle, threshold=None), rows) is None
    assert good_parts(dataclasses.replace(bundle, provenance={}), rows) is None
