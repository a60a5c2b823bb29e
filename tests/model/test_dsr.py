"""DSR assembled: sizes, batches, gradients, the score. Networks are tiny; the paper's sizes are in test_official.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.model.blocks import standardised
from flawmap.model.decoder import ObjectDecoder
from flawmap.model.detection import DetectionUNet
from flawmap.model.discrete import DiscreteModel, GeneralDecoder
from flawmap.model.dsr import DSR, ScoreRule, detection_channels, image_score
from flawmap.model.restriction import SubspaceRestriction, halved
from flawmap.train.detect import turned, turned_pictures


def tiny(*, refinement: bool = True, general: bool = False) -> DSR:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DSR(
            discrete=DiscreteModel(16, 8, 8, 4),
            coarse_restriction=SubspaceRestriction(8, (8, 8, 8)),
            fine_restriction=SubspaceRestriction(8, (8, 8, 8)),
            object_decoder=GeneralDecoder(16, 8, 4) if general else ObjectDecoder(16, (8, 8, 8), 4, 8, 4),
            detection=DetectionUNet(6, 4),
            refinement=DetectionUNet(8, 4) if refinement else None,
        ).eval()
        # PyTorch's first weights let signals fade, and InstanceNorm would then magnify rounding.
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data.mul_(6**0.5)
        # Untrained features are far from untrained codes, and all would get the same one.
        model.discrete.start_codebooks(pictures(4, 64, 64), torch.Generator().manual_seed(0))
        model.discrete.normalise_codes()
        return model


def pictures(batch: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> DSR:
    return tiny()


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    train=st.booleans(),
    general=st.booleans(),
)
def test_any_multiple_of_16_and_any_batch_works(
    batch: int, rows: int, columns: int, train: bool, general: bool
) -> None:
    height, width = 16 * rows, 16 * columns
    with torch.no_grad():
        result = tiny(general=general).train(train)(pictures(batch, height, width))
    assert result.map.shape == result.detection_map.shape == (batch, height, width)
    assert result.object_image.shape == result.general_image.shape == (batch, 3, height, width)
    assert result.coarse_indices.shape == (batch, height // 8, width // 8)
    assert result.fine_indices.shape == (batch, height // 4, width // 4)
    assert result.coarse_restricted.shape == (batch, 8, height // 8, width // 8)
    assert result.fine_restricted.shape == (batch, 8, height // 4, width // 4)
    assert result.score.shape == (batch,)
    for found in (result.map, result.detection_map, result.score):
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (64, 64)])
def test_the_order_and_company_of_images_do_not_matter(model: DSR, height: int, width: int) -> None:
    batch, order = pictures(3, height, width), [2, 0, 1]
    with torch.no_grad():
        together, shuffled, alone = model(batch), model(batch[order]), model(batch[1:2])
    for name in ("map", "detection_map", "score", "object_image", "fine_restricted"):
        found = getattr(together, name)
        torch.testing.assert_close(getattr(shuffled, name), found[order], rtol=0, atol=1e-3)
        torch.testing.assert_close(getattr(alone, name), found[1:2], rtol=0, atol=1e-3)
    assert torch.equal(shuffled.fine_indices, together.fine_indices[order])


def test_images_differ_in_their_results(model: DSR) -> None:
    with torch.no_grad():
        result = model(pictures(2, 32, 32))
    assert (result.map[0] - result.map[1]).abs().max() > 0.1
    assert (result.score[0] - result.score[1]).abs() > 0.002


@pytest.mark.parametrize(
    ("side", "half"), [((8, 8), (4, 4)), ((6, 6), (3, 3)), ((3, 3), (2, 2)), ((1, 6), (1, 3)), ((2, 2), (2, 2))]
)
def test_pooling_rounds_up_and_never_leaves_a_single_cell(side: tuple[int, int], half: tuple[int, int]) -> None:
    assert halved(torch.zeros(1, 1, *side)).shape[-2:] == half


def test_without_refinement_the_map_is_the_detection_map() -> None:
    with torch.no_grad():
        result = tiny(refinement=False)(pictures(1, 32, 32))
    assert torch.equal(result.map, result.detection_map)


def test_forward_is_what_the_parts_give(model: DSR) -> None:
    image = pictures(2, 48, 32)
    with torch.no_grad():
        result = model(image)
        encoding = model.discrete.encode(image)
        restricted = model.restrict(encoding.coarse_codes, encoding.fine_codes)
        drawn = model.draw_object(restricted.coarse_codes, restricted.fine_codes)
        general = model.discrete.decode(encoding.coarse_codes, encoding.fine_codes)
        first = torch.softmax(model.detect(drawn, general), dim=1)
        refined = torch.softmax(model.refine(drawn, general, first), dim=1)
    assert torch.equal(result.object_image, drawn)
    assert torch.equal(result.general_image, general)
    assert torch.equal(result.detection_map, first[:, 1])
    assert torch.equal(result.map, refined[:, 1])
    assert torch.equal(result.score, image_score(first[:, 1]))
    assert not torch.equal(result.map, result.detection_map)


def test_maps_and_scores_are_float32_under_autocast(model: DSR) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = model(pictures(1, 32, 32))
    assert result.map.dtype == result.detection_map.dtype == result.score.dtype == torch.float32
    assert result.object_image.dtype == torch.bfloat16


def test_restricted_codes_are_codes_of_the_books(model: DSR) -> None:
    with torch.no_grad():
        encoding = model.discrete.encode(pictures(1, 32, 32))
        restricted = model.restrict(encoding.coarse_codes, encoding.fine_codes)
    for codes, book in (
        (restricted.coarse_codes, model.discrete.coarse_codebook),
        (restricted.fine_codes, model.discrete.fine_codebook),
    ):
        cells = codes.permute(0, 2, 3, 1).reshape(-1, 8)
        # by differences: as a matrix product, distances of 0 come out as 1e-3 on some processors
        apart = torch.cdist(cells, book.vectors, compute_mode="donot_use_mm_for_euclid_dist")
        assert (apart.amin(1) < 1e-5).all()


def test_the_image_loss_reaches_both_restrictions_and_leaves_the_discrete_model_alone() -> None:
    model = tiny()
    model.discrete.requires_grad_(False)
    encoding = model.discrete.encode(pictures(1, 32, 32))
    restricted = model.restrict(encoding.coarse_codes, encoding.fine_codes)
    model.draw_object(restricted.coarse_codes, restricted.fine_codes).square().mean().backward()  # type: ignore[no-untyped-call]
    for part in (model.coarse_restriction, model.fine_restriction, model.object_decoder):
        assert all(parameter.grad is not None for parameter in part.parameters())
    for restriction in (model.coarse_restriction, model.fine_restriction):
        assert restriction.out.weight.grad is not None and restriction.out.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.discrete.parameters())


class PixelByPixel(torch.nn.Module):
    """Stands for a detection that calls defective what is bright in the image's first channel."""

    def with_features(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert seen.shape[1] == detection_channels(sees_image=True, scale=2, fold=True) == 18
        return torch.cat([torch.zeros_like(seen[:, :4]), seen[:, 6:10]], dim=1), seen


def folding() -> DSR:
    plain = tiny(refinement=False)
    parts = (plain.discrete, plain.coarse_restriction, plain.fine_restriction, plain.object_decoder)
    return DSR(*parts, PixelByPixel(), detection_scale=2, sees_image=True, fold=True)  # type: ignore[arg-type]


def test_folded_pixels_come_back_where_they_were() -> None:
    drawing, image = pictures(2, 32, 48), pictures(2, 32, 48, seed=2)
    logits = folding().detect(drawing, drawing, image)
    assert torch.equal(logits[:, 1], image[:, 0])
    assert torch.equal(logits[:, 0], torch.zeros(2, 32, 48))


def test_folded_pixels_are_turned_with_the_picture() -> None:
    model, drawing, image = folding(), pictures(2, 32, 32), pictures(2, 32, 32, seed=2)
    for seed in range(8):
        turn = turned(torch.Generator().manual_seed(seed))
        seen = turned_pictures(model.compared(drawing, drawing, image), turn, model)
        torch.testing.assert_close(seen, model.compared(turn(drawing), turn(drawing), turn(image)))
        assert torch.equal(model.judge(seen, (32, 32))[:, 1], turn(image)[:, 0])


def test_standardised_folded_pictures_have_mean_0_and_deviation_1() -> None:
    folded = torch.nn.functional.pixel_unshuffle(pictures(2, 32, 32) * 0.3 + 0.2, 2)
    image = standardised(torch.cat([pictures(2, 16, 16), pictures(2, 16, 16), folded], 1), 12)[:, 6:]
    torch.testing.assert_close(image.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert (image.std((1, 2, 3)) - 1).abs().max() < 0.3  # short of 1 by what DARKEST adds


def test_score_is_the_largest_mean_of_21_by_21_pixels() -> None:
    maps = torch.zeros(2, 64, 48)
    maps[0, 20:41, 10:31] = 0.5  # fills one window
    maps[1, 30, 30] = 1.0
    torch.testing.assert_close(image_score(maps), torch.tensor([0.5, 1 / 441]))
    torch.testing.assert_close(image_score(maps, ScoreRule(5)), torch.tensor([0.5, 1 / 25]))
    torch.testing.assert_close(image_score(maps, ScoreRule(1)), torch.tensor([0.5, 1.0]))


def test_score_is_the_mean_of_the_largest_pixels_wherever_they_lie() -> None:
    maps = torch.zeros(2, 64, 48)
    maps[0, 7, :30] = 0.8  # a thin crack: 30 pixels
    maps[1, 20:25, 10:15] = 0.8
    found = image_score(maps, ScoreRule(pixels=25))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.8]))
    assert image_score(maps, ScoreRule(5))[0] < 0.2
    maps[0, 7, 20:] = 0.5
    wanted = torch.sigmoid(torch.logit(torch.tensor(0.8)) * 20 / 25)  # five more pixels, whose log-odds are 0
    torch.testing.assert_close(image_score(maps, ScoreRule(pixels=25))[0], wanted)
    small = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = torch.sigmoid(torch.logit(small).mean((1, 2)))
    torch.testing.assert_close(image_score(small, ScoreRule(pixels=441)), wanted)
    certain = torch.ones(1, 8, 8)
    assert 0.99 < image_score(certain, ScoreRule(pixels=9)) <= 1


def test_zeros_beyond_the_border_count_in_the_score() -> None:
    maps = torch.zeros(1, 64, 64)
    maps[0, :5, :5] = 1.0
    torch.testing.assert_close(image_score(maps), torch.tensor([25 / 441]))
    torch.testing.assert_close(image_score(torch.ones(1, 16, 16)), torch.tensor([256 / 441]))
