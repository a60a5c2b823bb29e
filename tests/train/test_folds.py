"""Siblings among good photos are found by folder, order of capture and likeness, and are left out together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flawmap.train.folds import (
    CELLS,
    LARGEST,
    Partition,
    by_folder,
    by_runs,
    capture_orders,
    left_out,
    near_duplicates,
    nearest,
)

FOLDS = 8
CHANNELS = 60


def features(groups: list[int], seed: int, apart: float) -> Tensor:
    """Grids (P, C, CELLS, CELLS) of photos, those of one group alike: as much as `apart` is large."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -1.5, CHANNELS)[None, :, None, None]
    cells = torch.randn(len(groups), CHANNELS, CELLS, CELLS, generator=generator) * spread
    photos = 0.5 * torch.randn(len(groups), CHANNELS, 1, 1, generator=generator) * spread
    shared = torch.randn(max(groups) + 1, CHANNELS, 1, 1, generator=generator)[groups] * spread
    return cells + photos + apart * shared


def names(count: int) -> list[Path]:
    return [Path(f"good/{number}.png") for number in range(count)]


def runs(count: int, length: int) -> list[int]:
    return [number // length for number in range(count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [38, 90])
def test_independent_photos_are_groups_of_their_own(count: int, seed: int) -> None:
    found = by_runs(names(count), features(list(range(count)), seed, 0.0), FOLDS, 0)
    assert found.by == "near-duplicates" and found.count >= count - 1
    assert len(np.unique(found.folds)) == FOLDS


@pytest.mark.parametrize(("photos", "length"), [(90, 15), (90, 5), (160, 10)])
@pytest.mark.parametrize("apart", [0.7, 2.0])
def test_runs_in_the_order_of_capture_are_counted(photos: int, length: int, apart: float) -> None:
    counts = [by_runs(names(photos), features(runs(photos, length), seed, apart), FOLDS, 0) for seed in range(3)]
    assert all(found.by == "order" for found in counts)
    assert all(0.7 <= found.count / (photos / length) <= 1.5 for found in counts)


def test_photos_of_a_run_are_left_out_together() -> None:
    photos = features(runs(90, 15), 0, 1.0)
    found = by_runs(names(90), photos, FOLDS, 0)
    shuffled = np.random.default_rng(0).permutation(found.folds)
    profile = nearest(photos)
    assert left_out(profile, found.folds).mean() > left_out(profile, shuffled).mean() + 0.03
    within = [len(np.unique(found.folds[start : start + 15])) for start in range(0, 90, 15)]
    assert max(within) <= 2  # a run is cut once at most


def test_folds_are_made_of_whole_groups() -> None:
    for length, apart in ((15, 1.0), (1, 0.0)):
        found = by_runs(names(90), features(runs(90, length), 1, apart), FOLDS, 0)
        assert all(len(np.unique(found.folds[found.groups == group])) == 1 for group in np.unique(found.groups))


def test_siblings_whose_names_say_nothing_are_found_by_likeness() -> None:
    order = np.random.default_rng(3).permutation(90)
    groups = [int(number) // 3 for number in order]
    found = by_runs(names(90), features(groups, 0, 4.0), FOLDS, 0)
    assert found.by == "near-duplicates" and 25 <= found.count <= 35
    pairs = [(one, other) for one in range(90) for other in range(one) if groups[one] == groups[other]]
    assert np.mean([found.folds[one] == found.folds[other] for one, other in pairs]) > 0.9


def test_a_cluster_of_most_photos_is_cut_along_the_order() -> None:
    groups = [0] * 60 + list(range(1, 21))
    photos = features(groups, 0, 0.0)
    photos[:60] = photos[:1] + 1e-3 * photos[:60]
    clusters = near_duplicates(photos, np.arange(80))
    assert np.bincount(clusters).max() <= LARGEST * 80
    assert (np.diff(clusters[:60]) >= 0).all() and len(np.unique(clusters[:60])) == 3


def test_equal_photos_and_few_of_them_are_partitioned() -> None:
    for photos in (torch.zeros(40, 8, 3, 3), torch.rand(1, 8, 3, 3), torch.rand(3, 8, 1, 5), torch.rand(17, 4, 2, 2)):
        found = by_runs(names(len(photos)), photos, FOLDS, 0)
        assert found.groups.shape == found.folds.shape == (len(photos),)
        assert 1 <= found.count <= len(photos)


def test_the_same_photos_are_partitioned_the_same() -> None:
    photos = features(runs(90, 5), 0, 1.0)
    first, again = (by_runs(names(90), photos, FOLDS, 5) for _ in range(2))
    assert np.array_equal(first.groups, again.groups) and np.array_equal(first.folds, again.folds)


def test_numbers_in_names_are_compared_as_numbers() -> None:
    paths = [Path(f"good/tile{number}.png") for number in (100, 9, 10)]
    assert [order.tolist() for order in capture_orders(paths)] == [[1, 2, 0]]


def test_every_number_in_names_may_be_that_of_capture() -> None:
    paths = [Path(f"good/exp{view}_num_{number}.jpg") for view in (1, 2) for number in (1855, 824)]
    assert [order.tolist() for order in capture_orders(paths)] == [[1, 0, 3, 2], [1, 3, 0, 2]]


def test_folders_come_before_names_and_times_before_both() -> None:
    paths = [Path("b/1.png"), Path("a/2.png"), Path("a/10.png")]
    assert capture_orders(paths)[0].tolist() == [1, 2, 0]
    assert capture_orders(paths, ["3", "2", "1"])[0].tolist() == [2, 1, 0]


def test_names_of_several_kinds_have_one_order() -> None:
    paths = [Path("good/b12_1.png"), Path("good/front.png"), Path("good/a7.png")]
    assert [order.tolist() for order in capture_orders(paths)] == [[2, 0, 1]]


def test_photos_of_the_same_tile_are_siblings_by_the_number_that_says_so() -> None:
    tiles = [number // 6 for number in range(120)]
    paths = [Path(f"good/exp{number % 6 + 1}_num_{1000 * (number // 6) + number}.jpg") for number in range(120)]
    found = by_runs(paths, features(tiles, 0, 1.0), FOLDS, 0)
    assert found.by == "order" and 14 <= found.count <= 30


def test_each_folder_is_a_group() -> None:
    paths = [Path(f"part{number // 3}/{number}.png") for number in range(30)]
    found = by_folder(paths, FOLDS, 0)
    assert found.by == "folder" and found.count == 10 and len(np.unique(found.folds)) == FOLDS
    assert all(len(np.unique(found.folds[start : start + 3])) == 1 for start in range(0, 30, 3))
    assert found.of_first(6).count == 2 and found.of_first(6).facts() == {"count": 2, "by": "folder"}


def test_groups_are_counted() -> None:
    assert Partition(np.array([4, 4, 7]), np.array([0, 0, 1]), "order").count == 2
