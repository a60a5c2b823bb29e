"""Shapes of painted defects: thin lines are thin, blobs are small, everything follows from the generator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from flawmap.data.shapes import blob_group, crack, decoy_masks, defect_masks, line, region, softened, streaked
from flawmap.data.surfaces import draw_good


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_masks_are_opacities_and_the_stated_share_is_empty() -> None:
    masks = defect_masks(400, 64, 64, seeded(), empty=0.5)
    assert masks.shape == (400, 64, 64)
    assert masks.dtype == torch.float32
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1 + 1e-6
    # Perlin patches may also come out empty, so a little more than half.
    assert 0.44 < float((masks.flatten(1).amax(1) == 0).float().mean()) < 0.62


def test_the_same_seed_draws_the_same_masks() -> None:
    assert torch.equal(defect_masks(6, 48, 80, seeded(3)), defect_masks(6, 48, 80, seeded(3)))
    assert not torch.equal(defect_masks(6, 48, 80, seeded(3)), defect_masks(6, 48, 80, seeded(4)))


def test_lines_are_thin_at_any_size() -> None:
    generator = seeded(1)
    for side in (64, 128, 256):
        # Twice the largest distance to the background is the width.
        widths = [2 * ndimage.distance_transform_edt(line(side, side, generator).numpy()).max() for _ in range(30)]
        assert np.median(widths) <= 6
        assert min(widths) > 0, "a line is never empty"


def test_cracks_are_thin_and_run_almost_straight_half_of_them_along_the_axes() -> None:
    generator = seeded(3)
    straight, lengths = [], []
    for _ in range(120):
        mask = crack(128, 160, generator).numpy()
        assert 2 * ndimage.distance_transform_edt(mask).max() <= 6
        pieces, count = ndimage.label(mask, np.ones((3, 3)))
        assert count <= 3
        for box in ndimage.find_objects(pieces):
            height, width = (part.stop - part.start for part in box)
            lengths.append(max(height, width))
            straight.append(min(height, width) <= 5)
    assert 0.3 < np.mean(straight) < 0.8, "those along the axes, and short ones"
    assert min(lengths) < 16 and max(lengths) > 80


def test_a_share_of_the_lines_are_cracks() -> None:
    def crooked(cracks: float) -> float:
        masks = defect_masks(60, 128, 128, seeded(), empty=0.0, lines=1.0, blobs=0.0, cracks=cracks) > 0.9
        return float(np.mean([ndimage.label(mask.numpy(), np.ones((3, 3)))[1] for mask in masks]))

    assert crooked(0.0) > crooked(0.5) > crooked(1.0), "a crack is in one piece, lines along noise are in many"


def waves(degrees: float, contrast: float = 0.1) -> torch.Tensor:
    """Rough images (8, 3, 96, 96) with waves whose crests run at so many degrees from level."""
    rows, columns = torch.arange(96.0)[:, None], torch.arange(96.0)[None]
    turn = math.radians(degrees)
    wave = torch.sin(0.4 * (math.cos(turn) * rows - math.sin(turn) * columns))
    noise = 0.02 * torch.randn(8, 1, 96, 96, generator=seeded(7))
    return (0.5 + contrast * wave + noise).expand(8, 3, 96, 96)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_streaks_are_seen_at_any_angle(degrees: float) -> None:
    assert streaked(waves(degrees)).all()


def test_what_is_rough_alike_in_all_directions_has_no_streaks_nor_has_one_scratch() -> None:
    plain = waves(0, contrast=0.0)
    assert not streaked(plain).any()
    scratched = plain.clone()
    scratched[:, :, 40:42, 10:80] = 1
    assert not streaked(scratched).any()
    assert not streaked(torch.full((2, 3, 64, 64), 0.5)).any(), "nor has a blank image"


def test_drawn_surfaces_with_and_without_streaks_are_told_apart() -> None:
    random = np.random.default_rng(0)

    def found(surface: str) -> float:
        drawn = [torch.from_numpy(np.ascontiguousarray(draw_good(surface, 128, random))) for _ in range(6)]
        return float(streaked(torch.stack(drawn).permute(0, 3, 1, 2)).float().mean())

    assert found("brushed-metal") == found("wood") == 1
    assert found("fabric") == found("ground-tile") == 0


def test_images_may_be_left_without_cracks() -> None:
    without = torch.arange(40) % 2 == 0
    some = defect_masks(40, 96, 96, seeded(), empty=0.0, lines=1.0, blobs=0.0, cracks=1.0, without=without)
    pieces = np.array([ndimage.label(mask.numpy() > 0.9, np.ones((3, 3)))[1] for mask in some])
    assert pieces[~without].max() <= 3 < pieces[without].max()
    assert torch.equal(
        defect_masks(40, 96, 96, seeded(), empty=0.0, cracks=0.5, without=torch.zeros(40, dtype=torch.bool)),
        defect_masks(40, 96, 96, seeded(), empty=0.0, cracks=0.5),
    )


def test_blobs_are_few_and_within_an_eighth_of_the_side() -> None:
    generator = seeded(2)
    for _ in range(40):
        mask = blob_group(96, 128, generator).numpy()
        assert ndimage.label(mask)[1] <= 4
        assert 2 * ndimage.distance_transform_edt(mask).max() <= 2 * 96 / 8 + 2


def test_regions_reach_the_border_and_cover_up_to_half() -> None:
    generator = seeded(4)
    masks = [region(96, 128, generator).numpy() for _ in range(60)]
    assert all(0.04 < mask.mean() < 0.51 for mask in masks)
    assert min(mask.mean() for mask in masks) < 0.1
    assert max(mask.mean() for mask in masks) > 0.3
    assert all(mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in masks)
    assert all(ndimage.label(mask)[1] <= 3 for mask in masks), "one piece, or one cut in two by the border"


def test_regions_are_drawn_when_asked_for() -> None:
    alone = defect_masks(40, 64, 64, seeded(), empty=0.0, lines=0.0, blobs=0.0, regions=1.0)
    assert float((alone > 0.5).float().mean((1, 2)).min()) > 0.02


@pytest.mark.parametrize(("lines", "blobs"), [(1.0, 0.0), (0.0, 1.0)])
def test_shares_choose_the_shape(lines: float, blobs: float) -> None:
    area = defect_masks(60, 128, 128, seeded(), empty=0.0, lines=lines, blobs=blobs).mean()
    patches = defect_masks(60, 128, 128, seeded(), empty=0.0, lines=0.0, blobs=0.0).mean()
    assert float(area) < float(patches), "lines and blobs cover less than Perlin patches"


def test_soft_edges_keep_the_peak() -> None:
    mask = torch.zeros(40, 40)
    mask[18:22, 18:22] = 1
    generator = seeded(5)
    soft = [softened(mask, generator) for _ in range(40)]
    assert any(bool(((m > 0) & (m < 1)).any()) for m in soft)
    assert any(torch.equal(m, mask) for m in soft)
    assert all(abs(float(m.max()) - 1) < 1e-6 for m in soft)


def test_decoys_cover_patches_or_everything() -> None:
    covered = decoy_masks(200, 32, 32, seeded()).float().mean((1, 2))
    assert 0.15 < float((covered == 1).float().mean()) < 0.4
    assert bool(((covered > 0) & (covered < 1)).any())
