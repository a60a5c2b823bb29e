"""Painted defects: only under the mask, grey stays grey, decoys are no defects, and the target is what can be seen."""

from __future__ import annotations

import pytest
import torch

from flawmap.bundle import load_general
from flawmap.data.shapes import decoy_masks, defect_masks
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.model.anomalies import rank_tables, replace_codes
from flawmap.model.discrete import DiscreteModel
from flawmap.model.painting import FARTHEST, Painted, Ways, _deformed, grain, paint


@pytest.fixture(scope="module")
def discrete() -> DiscreteModel:
    return load_general()


@pytest.fixture(scope="module")
def parts() -> torch.Tensor:
    import numpy as np

    drawn = [draw_good(SURFACES[index % len(SURFACES)], 64, np.random.default_rng(index)) for index in range(6)]
    return torch.stack([torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() for image in drawn])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(discrete: DiscreteModel, images: torch.Tensor, masks: torch.Tensor, ways: Ways, seed: int = 0) -> Painted:
    nowhere = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
    return paint(discrete, images, masks, nowhere, seeded(seed), ways=ways)


@pytest.mark.parametrize(
    "ways",
    [Ways(0, 0, 0), Ways(1, 0, 0), Ways(0, 1, 0), Ways(0, 0, 0, transplant=1), Ways(0, 0, 0, deform=1)],
    ids=["resample", "shift", "blend", "transplant", "deform"],
)
def test_only_the_masked_part_changes_and_the_target_is_what_can_be_seen(
    ways: Ways, discrete: DiscreteModel, parts: torch.Tensor
) -> None:
    masks = torch.zeros(6, 64, 64)
    masks[:, 20:44, 12:40] = 1
    found = painted(discrete, parts, masks, ways)
    outside = (masks == 0).unsqueeze(1).expand_as(parts)
    assert torch.equal(found.image[outside], parts[outside])
    assert not found.mask[masks == 0].any()
    assert found.mask.any(), "some of it is visible"
    change = (found.image - parts).abs().mean(1)
    assert float(change[found.mask].mean()) > Ways().visible / 2
    unseen = (masks > 0) & ~found.mask
    assert not unseen.any() or float(change[unseen].mean()) < 2 * Ways().visible, (
        "at the border, a mean over 3x3 is less"
    )


def test_grey_photos_stay_grey(discrete: DiscreteModel, parts: torch.Tensor) -> None:
    grey = parts.mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    everywhere = torch.ones(6, 64, 64, dtype=torch.bool)
    masks = defect_masks(6, 64, 64, seeded(), empty=0.0)
    found = paint(discrete, grey, masks, everywhere, seeded(), ways=Ways(0.3, 0.3, 1.0)).image
    assert float((found.amax(1) - found.amin(1)).max()) < 1e-5
    assert not torch.equal(found, grey)


def test_a_decoy_is_redrawn_and_is_no_defect(discrete: DiscreteModel, parts: torch.Tensor) -> None:
    nothing, everywhere = torch.zeros(6, 64, 64), torch.ones(6, 64, 64, dtype=torch.bool)
    found = paint(discrete, parts, nothing, everywhere, seeded(), ways=Ways(0, 0, 1.0))
    assert not found.mask.any()
    encoding = discrete.encode(parts)
    drawn = discrete.decode(encoding.coarse_codes, encoding.fine_codes).clamp(0, 1)
    colour = (parts.amax(1) - parts.amin(1)).flatten(1).amax(1) > 0.01
    assert torch.allclose(found.image[colour], drawn[colour], atol=1e-6)


def test_a_transplant_is_made_of_another_good_images_codes_and_keeps_the_tone_in_half_of_them(
    discrete: DiscreteModel, parts: torch.Tensor
) -> None:
    masks = torch.ones(6, 64, 64)
    nowhere = torch.zeros(6, 64, 64, dtype=torch.bool)
    grey = torch.stack([torch.full((3, 64, 64), 0.2 + 0.1 * index) for index in range(6)])
    grey[:, 0] += 0.05  # flat images in six tones: all that a transplant can change is the tone
    ways = Ways(0, 0, 0, (1.0, 1.0), transplant=1)
    tones, kept = [], 0
    for seed in range(8):
        found = paint(discrete, grey, masks, nowhere, seeded(seed), ways=ways).image
        change = (found - grey).mean((1, 2, 3))
        kept += int((change.abs() < 1e-3).sum())
        tones += change[change.abs() >= 0.05].tolist()
    assert 12 < kept < 40, "24 of 48 keep their tone, and some of the others are their own donor"
    assert len(tones) > 8, "the rest take another image's"
    assert all(abs(tone / 0.1 - round(tone / 0.1)) < 0.35 for tone in tones)


def test_a_deformation_moves_codes_a_few_cells_and_both_grids_alike() -> None:
    coarse, fine = (torch.arange(side * side).reshape(1, side, side).repeat(2, 1, 1) for side in (32, 64))
    bends = torch.ones(2, 2, 3, 3)
    bends[1] *= -1  # the second towards the other side
    for amount, far in ((0.1, 0.325 * FARTHEST), (0.6, 0.7 * FARTHEST), (1.0, FARTHEST)):
        moved = [
            _deformed(indices, cell, bends, torch.full((2,), amount)) for indices, cell in ((coarse, 8), (fine, 4))
        ]
        for indices, found, steps in zip((coarse, fine), moved, (round(far), round(2 * far)), strict=True):
            side = indices.shape[-1]
            middle = slice(8, side - 8)
            wanted = indices[:, middle, middle] + steps * (side + 1) * torch.tensor([1, -1])[:, None, None]
            assert torch.equal(found[:, middle, middle], wanted)
            assert found.min() >= 0 and found.max() < side * side, "and what lies beyond the border is its nearest"


def test_what_a_deformation_paints_is_of_the_images_own_codes_and_even_surfaces_have_none(
    discrete: DiscreteModel, parts: torch.Tensor
) -> None:
    ways = Ways(0, 0, 0, (1.0, 1.0), deform=1)
    masks = torch.ones(6, 64, 64)
    even = torch.full((6, 3, 64, 64), 0.4)
    assert not painted(discrete, even, masks, ways).mask[:, 16:48, 16:48].any(), "bent, it is as it was"
    bent, straight = painted(discrete, parts, masks, ways), discrete.encode(parts)
    drawn = discrete.decode(straight.coarse_codes, straight.fine_codes)
    tones = (bent.image - parts).mean((1, 2, 3)).abs()
    assert (tones < 0.05).all(), "nothing is darker or lighter as a whole"
    assert float((bent.image - parts).abs().mean()) > 0.1 * float(
        (drawn - drawn.mean((2, 3), keepdim=True)).abs().mean()
    )


def test_empty_masks_leave_the_photo_alone(discrete: DiscreteModel, parts: torch.Tensor) -> None:
    found = painted(discrete, parts, torch.zeros(6, 64, 64), Ways(0.3, 0.3, 0.3))
    assert torch.equal(found.image, parts)
    assert not found.mask.any()


def test_the_same_generator_paints_the_same(discrete: DiscreteModel, parts: torch.Tensor) -> None:
    masks, decoys = defect_masks(6, 64, 64, seeded(1), empty=0.0), decoy_masks(6, 64, 64, seeded(2))
    one, two = (paint(discrete, parts, masks, decoys, seeded(4), ways=Ways()).image for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_table_ranks_are_distributed_as_the_papers(
    strength: float, discrete: DiscreteModel, parts: torch.Tensor
) -> None:
    """Ranks by distance to the unquantized feature, of codes drawn with the table, against the uniform distribution
    of the exact rule: the largest difference of the two cumulative shares (Kolmogorov)."""
    table = rank_tables(discrete).fine
    encoding = discrete.encode(parts)
    features, indices, book = encoding.fine_features, encoding.fine_indices, discrete.fine_codebook
    mask = torch.ones_like(indices, dtype=torch.bool)
    altered = replace_codes(book, features, indices, mask, torch.full((6,), strength), seeded(), table=table)
    cells = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    ranks = (book.distances(cells).argsort(1) == altered.flatten()[:, None]).int().argmax(1).sort().values
    first, last = int(0.05 * book.size), min(int(strength * book.size) + 1, book.size - 1)
    uniform = (ranks - first + 1).float().clamp(0, last - first + 1) / (last - first + 1)
    empirical = torch.arange(1, len(ranks) + 1) / len(ranks)
    assert float((uniform - empirical).abs().max()) < 0.08
    assert not (altered == indices).any(), "the nearest 5 % hold the cell's own code"


def rough(deviation: float, base: float = 0.5) -> torch.Tensor:
    """Six grey images (6, 3, 64, 64) of noise with this deviation."""
    noise = torch.randn(6, 1, 64, 64, generator=seeded(5))
    return (base + deviation * noise).clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


def test_grain_is_the_deviation_from_the_local_mean() -> None:
    slope = torch.linspace(0.2, 0.8, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    assert float(grain(slope)) < 0.02, "slow changes of brightness are no grain"
    assert float(grain(rough(0.05)).mean()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("deviation", [0.02, 0.08])
def test_faint_defects_are_raised_in_units_of_the_surfaces_grain(deviation: float, discrete: DiscreteModel) -> None:
    images = rough(deviation)
    masks = torch.zeros(6, 64, 64)
    masks[:, 30:36, 30:36] = 1  # less than 1 % of the image: no allowance for large ones
    found = painted(discrete, images, masks, Ways(0.5, 0.5, 0, (0.3, 0.3), 0.7, contrast=(4, 4)))
    change = (found.image - images)[:, 0, 30:36, 30:36]
    assert torch.equal(found.mask, masks > 0), "all of it is visible"
    for tone, unit in zip(change.mean((1, 2)).abs().tolist(), grain(images).tolist(), strict=True):
        assert tone == pytest.approx(min(4 * unit, 0.4), rel=0.15)


def test_a_thin_line_counts_as_visible_by_its_own_contrast_and_what_is_too_faint_does_not(
    discrete: DiscreteModel,
) -> None:
    images = rough(0.04)
    masks = torch.zeros(6, 64, 64)
    masks[:, 10:50, 31] = 1
    plain = painted(discrete, images, masks, Ways(1, 0, 0, (1, 1), 1.0, contrast=(6, 6)))
    assert float(plain.mask[masks > 0].float().mean()) > 0.9
    faint = painted(discrete, images, masks, Ways(0, 0, 0, (0.01, 0.01), 1.0, contrast=(0.2, 0.2)))
    assert float(faint.mask[masks > 0].float().mean()) < 0.2
    assert not plain.mask[masks == 0].any()


def test_what_covers_much_of_the_image_gets_less_contrast(discrete: DiscreteModel) -> None:
    images = rough(0.04)
    small, large = torch.zeros(6, 64, 64), torch.zeros(6, 64, 64)
    small[:, 30:36, 30:36] = 1
    large[:, 8:56, 8:56] = 1
    ways = Ways(1, 0, 0, (0.3, 0.3), 0.7, contrast=(4, 4))
    sizes = [
        ((painted(discrete, images, masks, ways).image - images).mean(1) * masks).sum((1, 2)).abs() / masks.sum((1, 2))
        for masks in (small, large)
    ]
    assert float((sizes[1] / sizes[0]).median()) == pytest.approx(0.4, abs=0.1)


def test_what_is_plain_already_is_not_raised(discrete: DiscreteModel) -> None:
    images = rough(0.02)
    masks = torch.zeros(6, 64, 64)
    masks[:, 20:40, 20:40] = 1
    drawn, kept = (
        painted(discrete, images, masks, Ways(0, 0, 0, (1, 1), 0.02, contrast=contrast)).image
        for contrast in (None, (0.1, 0.1))
    )
    assert torch.equal(drawn, kept)


@pytest.mark.parametrize("contrast", [None, (2.0, 4.0)])
def test_what_is_painted_is_either_a_defect_or_unsure(
    contrast: tuple[float, float] | None, discrete: DiscreteModel, parts: torch.Tensor
) -> None:
    masks = defect_masks(6, 64, 64, seeded(1), empty=0.2)
    ways = Ways(0.3, 0.3, 0, (0.1, 1.0), 0.03 if contrast is None else 1.0, 0, contrast)
    found = painted(discrete, parts, masks, ways)
    assert found.mask.any() and found.unsure.any()
    assert not (found.mask & found.unsure).any()
    assert torch.equal(found.mask | found.unsure, masks > 0)


def test_a_thin_line_is_judged_by_its_own_pixels_when_asked_to(discrete: DiscreteModel, parts: torch.Tensor) -> None:
    masks = torch.zeros(6, 64, 64)
    masks[:, 10:50, 31] = 1
    beside, own = (
        painted(discrete, parts, masks, Ways(1, 0, 0, (1, 1), 0.05, own_pixels=chosen)) for chosen in (False, True)
    )
    assert torch.equal(beside.image, own.image), "what is painted is the same"
    change = (own.image - parts).abs().mean(1)
    plain = (change > 0.1) & (change < 0.14) & (masks > 0)  # a third of it is below what counts as visible
    assert plain.any()
    assert own.mask[plain].float().mean() > 0.9 > 0.1 > beside.mask[plain].float().mean()
