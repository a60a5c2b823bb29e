"""Two resolutions of pretrained features, principal components, and an image that all else sees reduced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.bundle import Bundle, build, load_bundle, load_imagenet, round_weights, save_bundle
from flawmap.config import load_recipe
from flawmap.deploy.inspector import Inspector
from flawmap.measure.found import look
from flawmap.model.dsr import DSR, ScoreRule, image_score
from flawmap.model.familiarity import COMPONENTS_FLOOR, HIGH, LOW, Density, Familiarity, Moments, surroundings
from flawmap.model.imagenet import FINE, FINE_CHANNELS, LITE0, ImageNetFeatures, high_resolution

TINY = Path(__file__).parents[1] / "tiny.toml"
BOTH = ['model.familiarity=["encoder", "imagenet", "imagenet_high"]', "model.components=16", "model.neighbourhood=3"]


def model_of(*settings: str) -> DSR:
    recipe = load_recipe(TINY, ['model.norm="batch"', "refine.steps=0", *BOTH, *settings])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = build(recipe.model, with_refinement=False).eval().requires_grad_(False)
        assert model.imagenet is not None and model.familiarity is not None
        load_imagenet(model.imagenet)
        features = model.pretrained(torch.rand(4, 3, 128, 96))
        for name, density in model.familiarity.named_densities():
            if name in features:
                cells = surroundings(features[name], model.familiarity.around[name]).permute(0, 2, 3, 1).flatten(0, 2)
                moments = Moments(cells.shape[1])
                moments.add(cells.t()[None, :, :, None])
                density.fit(moments.mean(), moments.covariance(), 0.1)
                density.remember(cells[:40])
    return model


def test_features_of_high_resolution_are_of_rows_that_lie_over_one_another() -> None:
    network = ImageNetFeatures().eval()
    with torch.no_grad():
        blocks = network.blocks(torch.rand(2, 3, 96, 160))
        found = high_resolution(blocks)
    assert found.shape == (2, FINE_CHANNELS, 12, 20)
    first = LITE0[FINE[0]].channels
    assert torch.equal(found[:, :first], blocks[FINE[0]]), "the finest row as it is"
    coarse = found[:, -LITE0[FINE[-1]].channels :]
    assert torch.allclose(coarse.mean((2, 3)), blocks[FINE[-1]].mean((2, 3)), atol=0.05), "enlarged, not shifted"


def test_principal_components_are_of_unit_variance_and_leave_out_what_varies_least() -> None:
    torch.manual_seed(0)
    deviations = torch.tensor([4.0, 2.0, 1.0, 0.01])
    moments = Moments(4)
    moments.add((torch.randn(1, 4, 100, 100) * deviations[:, None, None]) + 3)
    density = Density(4, components=3)
    density.fit(moments.mean(), moments.covariance(), 0.0)
    white = density.white(torch.randn(20_000, 4) * deviations + 3)
    assert white.shape == (20_000, 3)
    torch.testing.assert_close(white.t().cov(), torch.eye(3), atol=0.05, rtol=0)
    odd = torch.full((1, 4, 1, 1), 3.0)
    odd[0, 3] += 1  # a hundred deviations, in the direction that is left out
    assert float(density(odd)) < np.log(0.01), "noise is not seen"


def test_distances_of_components_have_a_floor_that_rounding_does_not_reach() -> None:
    density = Density(4, components=2)
    density.remember(torch.zeros(1, 4))
    assert float(density(torch.zeros(1, 4, 1, 1))) == pytest.approx(np.log(COMPONENTS_FLOOR))


def test_what_is_reduced_has_the_images_size_all_the_same() -> None:
    model, reduced = model_of(), model_of("model.reduction=2")
    images = torch.rand(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, whole = reduced(images), model(images)
    for part in ("map", "detection_map", "object_image", "general_image", "score"):
        assert getattr(found, part).shape == getattr(whole, part).shape, part
    assert found.fine_indices.shape == (2, 16, 12) and whole.fine_indices.shape == (2, 32, 24)


def test_only_pretrained_features_see_the_whole_image() -> None:
    model = model_of("model.reduction=2")
    image = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    sharp = image + 0.2 * (torch.arange(96) % 2 * 2 - 1)  # every second column brighter, the others darker
    with torch.no_grad():
        one, other = model.examine(image), model.examine(sharp)
    assert torch.allclose(one.logits, other.logits, atol=1e-4), "the mean of two columns is what it was"
    assert not torch.allclose(one.features[HIGH], other.features[HIGH], atol=0.1)
    assert not torch.allclose(one.features[LOW], other.features[LOW], atol=0.1)


def test_a_score_of_a_reduced_map_is_that_of_its_own_pixels() -> None:
    small = torch.rand(2, 8, 6)
    large = torch.nn.functional.interpolate(small[:, None], scale_factor=2)[:, 0]
    for rule in (ScoreRule(1, 5), ScoreRule(3)):
        torch.testing.assert_close(image_score(large, rule._replace(stride=2)), image_score(small, rule))


def test_a_valid_mask_takes_the_score_from_what_is_valid_alone() -> None:
    model = model_of("model.reduction=2")
    images = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(1))
    found = look(model, images, torch.device("cpu"))
    assert found.within(np.ones((128, 96), np.bool_), model.score_rule).scores == pytest.approx(found.scores, abs=1e-6)
    valid = found.detection_maps[0] < np.median(found.detection_maps[0])
    assert found.within(valid, model.score_rule).scores[0] < found.scores[0] - 0.01


def test_a_bundle_keeps_both_memory_banks_and_finds_the_same_again(tmp_path: Path) -> None:
    size = ["model.reduction=2", "image.height=128", "image.width=96"]
    recipe = load_recipe(TINY, ['model.norm="batch"', "refine.steps=0", *BOTH, *size])
    model = model_of("model.reduction=2")
    round_weights(model)
    save_bundle(Bundle(model, recipe, None, {}), tmp_path / "part.bundle")
    again = load_bundle(tmp_path / "part.bundle")
    assert isinstance(again.model.familiarity, Familiarity)
    banks = {name: density.memory for name, density in again.model.familiarity.named_densities()}
    assert banks["encoder"] is None
    assert banks[LOW].shape == (32, 16) and banks[HIGH].shape == (40, 16), "patches, components"
    image = np.random.default_rng(0).integers(0, 256, (250, 190, 3), np.uint8)
    one = Inspector(Bundle(model, recipe, None, {}), "cpu").inspect(image)
    other = Inspector(again, "cpu").inspect(image)
    assert one.score == other.score and np.array_equal(one.map, other.map)


def test_how_ordinary_a_place_looks_to_one_source_does_not_outweigh_another() -> None:
    odd, ordinary = 8.0, -30.0
    maps = []
    for bounded in (False, True):
        model = Familiarity({"encoder": 1, LOW: 1}, bounded=bounded)
        values = iter([torch.full((1, 1, 8, 8), ordinary), torch.full((1, 1, 2, 2), odd), torch.zeros(1, 1, 2, 2)])
        model.evidence = lambda *_, values=values: list(values)  # type: ignore[method-assign]
        maps.append(float(model(torch.zeros(1, 2, 8, 8), {})[0].max()))
    unbounded = 1 / (1 + np.exp(-0.5 * (odd + ordinary) / 3))
    assert maps == pytest.approx([unbounded, 1 / (1 + np.exp(-0.5 * (odd - 4) / 3))], abs=1e-4)
