"""Replay: the last batches are kept, only they are drawn, turned as wanted; and the learning rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flawmap.bundle import build
from flawmap.config import DetectSettings, load_recipe
from flawmap.train.detect import rate_at, replay_for, turned
from flawmap.train.replay import Replay


def batch(value: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of two samples that can be told apart, with masks and unsure pixels that go with them."""
    values = torch.tensor([value, value + 0.5])
    masks = (values % 1 > 0)[:, None, None].expand(2, 8, 8)
    return values[:, None, None, None].expand(2, 3, 4, 4), masks, ~masks


def test_only_the_last_batches_are_drawn_each_with_its_own_mask() -> None:
    replay = Replay(3, (2, 3, 4, 4), (2, 8, 8), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for step in range(7):
        replay.put(step, *batch(float(step)))
        seen = set()
        for _ in range(40):
            pictures, masks, unsure = replay.draw(step, generator)
            assert torch.equal(unsure, ~masks)
            assert pictures.shape == (2, 3, 4, 4)
            assert pictures.dtype == torch.float32
            for picture, mask in zip(pictures, masks, strict=True):
                assert bool(mask.all()) == (float(picture[0, 0, 0]) % 1 > 0)
                assert bool(mask.any()) == bool(mask.all())
                seen.add(float(picture.mean()))
        expected = {kept + half for kept in range(max(0, step - 2), step + 1) for half in (0, 0.5)}
        assert seen == expected


def test_its_buffers_are_its_whole_state() -> None:
    first, second = (Replay(2, (2, 3, 4, 4), (2, 8, 8), torch.device("cpu")) for _ in range(2))
    first.put(0, *batch(1.0))
    first.put(1, *batch(2.0))
    for name, buffer in second.buffers.items():
        buffer.copy_(first.buffers[name])
    for found in zip(*(r.draw(1, torch.Generator().manual_seed(4)) for r in (first, second)), strict=True):
        assert torch.equal(*found)


@pytest.mark.parametrize(("turns", "ways"), [("none", 1), ("mirror", 4), ("quarter", 8)])
def test_what_is_seen_again_is_turned_as_far_as_wanted(turns: str, ways: int) -> None:
    picture = torch.arange(9.0).view(1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    found = {tuple(turned(generator, turns)(picture).flatten().tolist()) for _ in range(100)}
    assert len(found) == ways
    assert tuple(picture.flatten().tolist()) in found
    if turns == "mirror":
        assert all(abs(one[1] - one[0]) == 1 for one in found), "rows stay rows"


def test_the_drawings_rate_ends_where_they_settle() -> None:
    settings = DetectSettings(steps=100, rate=1e-3, schedule="cosine", warmup=10, settle=0.3)
    assert rate_at(9, settings, 30) == rate_at(9, settings, 100) == pytest.approx(1e-3)
    assert rate_at(30, settings, 30) == rate_at(31, settings, 30) == pytest.approx(0, abs=1e-9)
    assert rate_at(55, settings, 100) == pytest.approx(5e-4)
    paper = DetectSettings(steps=100)
    assert rate_at(79, paper, 100) == 2e-4 and rate_at(80, paper, 100) == pytest.approx(2e-5)


def test_a_crop_larger_than_the_image_keeps_batches_of_the_whole_image() -> None:
    tiny = Path(__file__).parents[1] / "tiny.toml"
    recipe = load_recipe(tiny, ["detect.crop=256", "detect.replay=2", "detect.views=2", "refine.steps=0"])
    replay = replay_for(build(recipe.model, with_refinement=False), recipe, torch.device("cpu"))
    assert replay is not None
    assert replay.masks.shape[1:] == (recipe.image.height, recipe.image.width)
