"""Feature-level anomalies follow the paper's rule."""

from __future__ import annotations

import pytest
import torch

from flawmap.model.anomalies import alter, blow_up, pool_mask, rank_bounds, replace_codes
from flawmap.model.codebook import Codebook
from flawmap.model.discrete import DiscreteModel


@pytest.fixture
def discrete() -> DiscreteModel:
    torch.manual_seed(0)
    return DiscreteModel(codes=64, code_length=8, width=8, hidden=4).requires_grad_(False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bounds_are_those_of_the_paper() -> None:
    first, last = rank_bounds(torch.tensor([0.2, 0.5, 1.0]), 4096, 0.05)
    assert first == 204
    assert last.tolist() == [820, 2049, 4095]


def test_unmasked_cells_are_untouched() -> None:
    torch.manual_seed(0)
    book, features = Codebook(40, 4), torch.randn(2, 4, 8, 8)
    indices, mask = book.nearest(features), torch.rand(2, 8, 8) > 0.7
    altered = replace_codes(book, features, indices, mask, torch.tensor([0.3, 1.0]), seeded())
    assert torch.equal(altered[~mask], indices[~mask])
    assert (altered[mask] != indices[mask]).all(), "the nearest 5 % hold the cell's own code"


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_ranks_are_uniform_between_the_bounds(strength: float) -> None:
    """Ranks by a direct sort of the distances to the *unquantized* feature; chi-squared against uniform."""
    torch.manual_seed(1)
    book, features = Codebook(40, 4), torch.randn(1, 4, 64, 64)
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    altered = replace_codes(book, features, book.nearest(features), mask, torch.tensor([strength]), seeded(3))
    cells = features.permute(0, 2, 3, 1).reshape(-1, 4)
    order = torch.cdist(cells.double(), book.vectors.double()).argsort(1)
    ranks = (order == altered.flatten().unsqueeze(1)).int().argmax(1)
    first, last = 2, min(int(strength * 40) + 1, 39)
    counts = torch.bincount(ranks, minlength=40).double()
    assert counts[:first].sum() == 0
    assert counts[last + 1 :].sum() == 0
    expected = len(cells) / (last - first + 1)
    chi2 = float(((counts[first : last + 1] - expected) ** 2 / expected).sum())
    degrees = last - first
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5, "five standard deviations above the mean"


def test_which_grids_are_altered_follows_the_stated_chances(discrete: DiscreteModel) -> None:
    images = torch.rand(400, 3, 32, 32, generator=seeded(1))
    mask = torch.ones(400, 32, 32, dtype=torch.bool)
    encoding = discrete.encode(images)
    altered = alter(discrete, images, mask, seeded(2))
    coarse = (altered.coarse_codes != encoding.coarse_codes).flatten(1).any(1)
    fine = (altered.fine_codes != encoding.fine_codes).flatten(1).any(1)
    assert (coarse | fine).all()
    both, coarse_alone, fine_alone = (coarse & fine), (coarse & ~fine), (fine & ~coarse)
    for share, expected in ((both, 0.5), (coarse_alone, 0.25), (fine_alone, 0.25)):
        assert abs(float(share.float().mean()) - expected) < 0.11  # 4.4 to 5 standard deviations


def test_without_a_mask_nothing_changes(discrete: DiscreteModel) -> None:
    images = torch.rand(4, 3, 48, 64, generator=seeded(1))
    encoding = discrete.encode(images)
    altered = alter(discrete, images, torch.zeros(4, 48, 64, dtype=torch.bool), seeded())
    assert torch.equal(altered.coarse_codes, encoding.coarse_codes)
    assert torch.equal(altered.fine_codes, encoding.fine_codes)
    assert not altered.mask.any()


def test_the_mask_says_where_the_coarser_altered_grid_differs(discrete: DiscreteModel) -> None:
    images = torch.rand(60, 3, 64, 64, generator=seeded(1))
    mask = torch.zeros(60, 64, 64, dtype=torch.bool)
    mask[:, 13:18, 30:31] = True
    altered = alter(discrete, images, mask, seeded(5))
    changed_coarse = (altered.coarse_codes != altered.clean_coarse).any(1)
    for index in range(60):
        cell = 8 if changed_coarse[index].any() else 4
        assert torch.equal(altered.mask[index], blow_up(pool_mask(mask[index : index + 1], cell), cell)[0])


def test_one_seed_draws_one_defect(discrete: DiscreteModel) -> None:
    images, mask = torch.rand(3, 3, 32, 32), torch.ones(3, 32, 32, dtype=torch.bool)
    first, second = (alter(discrete, images, mask, seeded(9)) for _ in range(2))
    assert torch.equal(first.fine_codes, second.fine_codes)
    assert not torch.equal(first.fine_codes, alter(discrete, images, mask, seeded(10)).fine_codes)
