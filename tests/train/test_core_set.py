"""A core set stands for all points."""

from __future__ import annotations

import itertools

import pytest
import torch

from flawmap.train.core_set import core_set


def farthest(points: torch.Tensor, chosen: torch.Tensor) -> float:
    """The largest distance of a point from the nearest of those chosen."""
    return float(torch.cdist(points, points[chosen]).amin(1).max())


def test_each_cluster_has_its_point() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 100 * torch.randn(7, 5, generator=generator)
    points = (centres[:, None] + torch.randn(7, 40, 5, generator=generator)).flatten(0, 1)
    assert sorted((core_set(points, 7) // 40).tolist()) == list(range(7))


def test_no_point_is_more_than_twice_as_far_as_with_the_best_choice() -> None:
    points = torch.rand(14, 2, generator=torch.Generator().manual_seed(1))
    best = min(farthest(points, torch.tensor(chosen)) for chosen in itertools.combinations(range(14), 4))
    assert farthest(points, core_set(points, 4)) <= 2 * best + 1e-6  # Gonzalez 1985


@pytest.mark.parametrize("count", [5, 9])
def test_all_are_kept_where_they_are_no_more(count: int) -> None:
    assert core_set(torch.rand(5, 3), count).tolist() == [0, 1, 2, 3, 4]
