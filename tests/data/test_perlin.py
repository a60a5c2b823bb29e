"""Perlin masks: their share, their range of cell sizes, their seed."""

from __future__ import annotations

import math

import pytest
import torch

from flawmap.data.perlin import GRADIENTS, perlin_masks, perlin_noise


def test_half_of_the_masks_are_empty() -> None:
    masks = perlin_masks(400, 32, 32, torch.Generator().manual_seed(0), empty=0.5)
    assert 0.4 < float(masks.flatten(1).any(1).float().mean()) < 0.56


def test_noise_vanishes_at_lattice_points_and_stays_within_one() -> None:
    directions = torch.rand(GRADIENTS, GRADIENTS, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    noise = perlin_noise(255, 255, 5, 5, 0.0, directions)  # 51 pixels a cell: lattice points lie between pixel centres
    assert float(noise.abs().max()) <= 1.0 + 1e-6
    corners = noise[50:255:51, 50:255:51]
    assert float(corners.abs().max()) < 0.05
    assert float(noise.abs().max()) > 0.5


@pytest.mark.parametrize(("down", "across"), [(1, 16), (16, 1)])
def test_cells_a_side_set_the_direction_of_the_stripes(down: int, across: int) -> None:
    directions = torch.rand(GRADIENTS, GRADIENTS, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    noise = perlin_noise(128, 128, down, across, 0.0, directions)
    along_rows, along_columns = noise.diff(dim=1).abs().mean(), noise.diff(dim=0).abs().mean()
    assert (along_rows > 3 * along_columns) == (across > down)


def test_rotation_by_a_quarter_turn_turns_the_picture() -> None:
    directions = torch.rand(GRADIENTS, GRADIENTS, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    plain = perlin_noise(64, 64, 2, 2, 0.0, directions)
    turned = perlin_noise(64, 64, 2, 2, math.pi / 2, directions)
    assert torch.allclose(turned, torch.rot90(plain, 1), atol=1e-4) or torch.allclose(
        turned, torch.rot90(plain, -1), atol=1e-4
    )


def test_one_seed_draws_one_mask() -> None:
    first, second, other = (
        perlin_masks(4, 48, 64, torch.Generator().manual_seed(seed), empty=0.0) for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
