"""Nearest codes, and how a codebook learns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from flawmap.model.codebook import Codebook, cells_of


def brute_force(book: Codebook, features: torch.Tensor) -> torch.Tensor:
    cells = cells_of(features).double()
    distances = (cells.unsqueeze(1) - book.vectors.double().unsqueeze(0)).square().sum(2)
    return distances.argmin(1).view(len(features), *features.shape[2:])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), codes=st.integers(2, 40), side=st.integers(1, 7))
def test_nearest_code_is_that_of_a_direct_search(seed: int, codes: int, side: int) -> None:
    torch.manual_seed(seed)
    book = Codebook(codes, 6)
    features = torch.randn(3, 6, side, side + 1)
    assert torch.equal(book.nearest(features), brute_force(book, features))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    book, features = Codebook(50, 8), torch.randn(2, 8, 9, 9)
    wanted = brute_force(book, features)
    monkeypatch.setattr("flawmap.model.codebook.CELLS_PER_BLOCK", 7)
    monkeypatch.setattr("flawmap.model.codebook.DISTANCES_AT_HAND", 7 * 50)
    assert torch.equal(book.nearest(features), wanted)
    assert torch.equal(book.nearest(features.double()), wanted), "as on a GPU, where cells go through PyTorch alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_codes_the_first_is_taken(dtype: torch.dtype) -> None:
    book = Codebook(6, 3)
    book.vectors.copy_(torch.tensor([[9.0], [1], [2], [1], [2], [1]]).expand(6, 3))
    features = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2).to(dtype)
    assert book.nearest(features).tolist() == [[[1, 2]]]


def test_gradient_passes_straight_through() -> None:
    torch.manual_seed(0)
    book = Codebook(5, 4)
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    weights = torch.randn(1, 4, 2, 2)
    quantized = book(features)
    assert torch.allclose(quantized.codes.detach(), book.lookup(quantized.indices), atol=1e-6)
    (quantized.codes * weights).sum().backward()
    assert features.grad is not None
    assert torch.allclose(features.grad, weights)


def test_codes_move_to_the_means_of_their_features() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    features = (centres[torch.arange(200) % 2] + 0.1 * torch.randn(200, 2)).t().reshape(1, 2, 20, 10)
    book = Codebook(2, 2)
    book.vectors.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    for _ in range(300):
        book.learn(features, book.nearest(features), decay=0.9)
    assert torch.allclose(book.vectors, centres, atol=0.05)


def test_dead_codes_move_onto_features_and_living_ones_stay() -> None:
    torch.manual_seed(0)
    book = Codebook(3, 2)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [50.0, 50.0], [1.0, 1.0]]))
    book.counts.copy_(torch.tensor([10.0, 0.0, 10.0]))
    features = torch.rand(1, 2, 4, 4)
    moved = book.revive(features, torch.Generator().manual_seed(1))
    assert moved == 1
    assert (cells_of(features) == book.vectors[1]).all(1).any()
    assert torch.equal(book.vectors[[0, 2]], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_started_codes_are_all_features_of_the_batch() -> None:
    torch.manual_seed(0)
    book, features = Codebook(8, 3), torch.randn(2, 3, 4, 4)
    book.start(features, torch.Generator().manual_seed(1))
    cells = {tuple(cell) for cell in cells_of(features).tolist()}
    assert all(tuple(vector) in cells for vector in book.vectors.tolist())


def test_nearest_codes_can_be_traced_without_computing() -> None:
    book = Codebook(16, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = book.nearest(torch.empty(2, 4, 3, 5))
    assert (found.shape, found.dtype) == ((2, 3, 5), torch.int64)
