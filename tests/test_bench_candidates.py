"""What bench/candidates.py tells of maps, codes and photos."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import candidates
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
