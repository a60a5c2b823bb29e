"""What bench/candidates.py tells of maps, codes and photos."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import candidates
import defects
from flawmap.data.layouts import Sample
from flawmap.model.dsr import ScoreRule, image_score


def test_the_largest_region_counts_by_what_it_has_above_the_level() -> None:
    odds = np.full((20, 20), -3.0)
    assert candidates.largest_region(odds, 0.0) == 0
    odds[2, 2] = 9.0  # one pixel, and a faint stripe of more in sum
    odds[10, 3:18] = 1.0
    assert candidates.largest_region(odds, 0.0) == pytest.approx(15.0)
    assert candidates.largest_region(odds, 0.5) == pytest.approx(8.5)


@pytest.mark.parametrize("rule", [ScoreRule(1), ScoreRule(7), ScoreRule(1, 49)])
def test_a_score_ranks_maps_as_a_model_does(rule: ScoreRule) -> None:
    maps = torch.rand(12, 32, 32, generator=torch.Generator().manual_seed(0)) ** torch.arange(1, 13)[:, None, None]
    found = [candidates.score(torch.logit(one, 1e-6).numpy(), rule) for one in maps]
    assert np.argsort(found).tolist() == torch.argsort(image_score(maps, rule)).tolist()


def test_rare_codes_are_those_seldom_seen() -> None:
    seen = [SimpleNamespace(codes=[torch.zeros(4, 4).long(), torch.ones(8, 8).long()]) for _ in range(3)]
    coarse, fine = candidates.rarity_of(seen, (4, 4))
    assert coarse.argmin() == 0 and fine.argmin() == 1
    assert float(coarse[0]) == pytest.approx(-math.log(49 / 52))
    assert float(fine[0]) == pytest.approx(-math.log(1 / 196))


def test_alignment_is_one_where_photos_are_alike_and_none_where_they_are_not() -> None:
    draw = torch.Generator().manual_seed(0)
    pattern = torch.rand(1, 3, 64, 64, generator=draw)
    alike = [pattern * light for light in (0.5, 0.8, 1.0, 0.7)]
    assert candidates.aligned(alike) == pytest.approx(1, abs=1e-3)
    assert abs(candidates.aligned([torch.rand(1, 3, 64, 64, generator=draw) for _ in range(30)])) < 0.1


def with_mask(folder: Path, name: str, pixels: np.ndarray) -> Sample:
    Image.fromarray(np.full(pixels.shape, 90, np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(pixels).save(folder / f"{name}_mask.png")
    return Sample(folder / f"{name}.png", "test", True, "scratch", folder / f"{name}_mask.png")


def test_masks_are_read_at_half_scale_and_a_cell_is_marked_where_any_pixel_is(tmp_path: Path) -> None:
    thin = np.zeros((64, 64), np.uint8)
    thin[21, 8:40] = 255
    rings = np.tile(np.arange(64, dtype=np.uint8), (64, 1))  # JPEG's specks: never half of full scale, but for one
    rings[40:44, 40:44] = 255
    samples = [with_mask(tmp_path, "thin", thin), with_mask(tmp_path, "rings", rings)]
    samples.append(Sample(samples[0].image, "test", False, "good"))
    maps = [np.zeros((16, 16)) for _ in samples]
    maps[0][5, 2:10] = maps[1][10, 10] = 1.0
    assert candidates.pixel_ap(maps, samples) == 1.0


def test_a_defect_without_a_marked_pixel_is_told_apart(tmp_path: Path) -> None:
    specks = np.zeros((64, 64), np.uint8)
    specks[::3, ::3] = np.random.default_rng(0).integers(40, 120, specks[::3, ::3].shape)
    specks[0, 0] = 255
    assert defects._marks_some(with_mask(tmp_path, "one", specks))
    black = np.zeros((64, 64), np.uint8)
    assert not defects._marks_some(with_mask(tmp_path, "none", black))
    assert defects._marks_some(Sample(tmp_path / "none.png", "test", True, "scratch"))
