"""Evidence from how familiar features are, against formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.bundle import build
from flawmap.config import load_recipe
from flawmap.errors import ConfigError
from flawmap.model import familiarity
from flawmap.model.dsr import DSR, image_score
from flawmap.model.familiarity import (
    SHRINKAGE,
    STEEPNESS,
    WINDOW,
    Density,
    Familiarity,
    Moments,
    level_and_spread,
    levelled,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int, channels: int = 5) -> torch.Tensor:
    """Features (count, channels, 6, 7) whose channels depend on one another."""
    mixing = random(channels, channels, seed=1)
    return torch.einsum("cd,bdhw->bchw", mixing, random(count, channels, 6, 7, seed=2)) + 3


def fitted(features: torch.Tensor) -> Density:
    moments = Moments(features.shape[1])
    moments.add(features)
    density = Density(features.shape[1])
    density.fit(moments.mean(), moments.covariance())
    return density


def small(*familiarity: str) -> DSR:
    names = str(list(familiarity)).replace("'", '"')
    recipe = load_recipe(
        None,
        [
            "model.codes=16", "model.code_length=8", "model.discrete_width=8", "model.discrete_hidden=4",
            "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4",
            "model.norm=batch", "refine.steps=0", f"model.familiarity={names}",
        ],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(recipe.model, with_refinement=False).eval()


def test_moments_are_mean_and_covariance_of_what_counts() -> None:
    features = correlated(4)
    inside = random(6, 7, seed=3) > 0
    moments = Moments(5)
    for part in features.split(2):
        moments.add(part, inside)
    cells = features[:, :, inside].permute(1, 0, 2).flatten(1).double().numpy()
    np.testing.assert_allclose(moments.mean(), cells.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(moments.covariance(), np.cov(cells, bias=True), rtol=1e-5, atol=1e-8)
    assert moments.count == cells.shape[1]


def test_distance_is_mahalanobis() -> None:
    features = correlated(200)
    cells = features.permute(1, 0, 2, 3).flatten(1).double().numpy()
    covariance = np.cov(cells, bias=True)
    inverse = np.linalg.inv(covariance + SHRINKAGE * covariance.diagonal().mean() * np.eye(5))
    seen = correlated(3) * 2 - 1
    away = seen.permute(0, 2, 3, 1).double().numpy() - cells.mean(axis=1)
    wanted = np.log(np.einsum("bhwc,cd,bhwd->bhw", away, inverse, away) / 5)
    np.testing.assert_allclose(fitted(features)(seen)[:, 0], wanted, atol=1e-4)


def test_features_that_never_vary_leave_a_density_finite_in_half_precision() -> None:
    density = fitted(torch.ones(2, 5, 6, 7))
    assert density.whitening.half().isfinite().all()
    assert density(torch.ones(1, 5, 6, 7)).isfinite().all()


def test_levelling_takes_brightness_and_contrast_away() -> None:
    image = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(4))
    changed = 0.3 + 0.5 * image
    assert (image - changed).abs().mean() > 0.1
    assert (levelled(image) - levelled(changed)).abs().max() < 0.02
    assert levelled(image).min() >= 0 and levelled(image).max() <= 1
    torch.testing.assert_close(levelled(torch.full((1, 3, 64, 64), 0.7)), torch.full((1, 3, 64, 64), 0.5))


@settings(max_examples=20, deadline=None)
@given(row=st.integers(0, 49), column=st.integers(0, 59))
def test_a_window_counts_only_what_of_it_lies_in_the_image(row: int, column: int) -> None:
    image = torch.rand(2, 3, 50, 60, generator=torch.Generator().manual_seed(5))
    reach = WINDOW // 2
    window = image[..., max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
    torch.testing.assert_close(familiarity._window_mean(image)[..., row, column], window.mean((2, 3)))


def test_the_border_of_features_is_no_evidence() -> None:
    familiarity = Familiarity({"encoder": 5})
    features = random(1, 5, 8, 8, seed=6)
    marked = features.clone()
    marked[..., 0, :] = marked[..., -1, :] = 100
    marked[..., :, 0] = marked[..., :, -1] = -100
    logits = torch.zeros(1, 2, 32, 32)
    found, same = (familiarity.evidence(logits, {"encoder": x})[1] for x in (features, marked))
    assert torch.equal(found, same)
    assert found.shape == (1, 1, 8, 8)
    inner = familiarity.densities["encoder"](features)[..., 1:-1, 1:-1]
    assert found[0, 0, 3, 4] == pytest.approx(float(inner[0, 0, 1:4, 2:5].mean()), abs=1e-6)
    assert found[0, 0, 0, 0] == found[0, 0, 2, 2], "what is outermost is as its neighbours are"


def test_the_score_is_of_the_strongest_evidence_and_the_map_of_its_shares() -> None:
    familiarity = Familiarity({"encoder": 5, "detection": 4})
    familiarity.levels.copy_(torch.tensor([0.5, 1.0, -1.0]))
    familiarity.spreads.copy_(torch.tensor([2.0, 0.5, 1.5]))
    logits = random(2, 2, 32, 32, seed=7)
    features = {"encoder": random(2, 5, 8, 8, seed=8), "detection": random(2, 4, 4, 4, seed=9)}
    evidence = familiarity.evidence(logits, features)
    torch.testing.assert_close(evidence[0][:, 0], logits[:, 1] - logits[:, 0])
    above = []
    for found, level, spread in zip(evidence, (0.5, 1.0, -1.0), (2.0, 0.5, 1.5), strict=True):
        full = torch.nn.functional.interpolate(found, size=(32, 32), mode="bilinear", align_corners=False)
        above.append((full[:, 0] - level) / spread)
    shown, strongest = familiarity(logits, features)
    torch.testing.assert_close(strongest, torch.sigmoid(STEEPNESS * torch.stack(above).amax(0)))
    torch.testing.assert_close(shown, torch.sigmoid(STEEPNESS * torch.stack(above).mean(0)))
    familiarity.share(together=False)
    torch.testing.assert_close(familiarity(logits, features)[0], torch.sigmoid(STEEPNESS * above[0]))


def test_sources_that_are_left_out_take_their_levels_with_them() -> None:
    familiarity = Familiarity({"encoder": 5, "local": 5, "detection": 4})
    familiarity.levels.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    familiarity.spreads.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    familiarity.keep({"detection"})
    assert familiarity.sources == ("detection",)
    assert familiarity.levels.tolist() == [0, 3] and familiarity.spreads.tolist() == [1, 4]
    assert familiarity.shares.tolist() == [0.5, 0.5]
    assert set(familiarity.state_dict()) == set(Familiarity({"detection": 4}).state_dict())


def test_level_and_spread_are_of_the_largest_and_no_spread_is_nothing() -> None:
    assert level_and_spread([1.0, 3.0], 0.1) == pytest.approx((2.0, 2**0.5))
    assert level_and_spread([2.0, 2.0], 0.4) == pytest.approx((2.0, 0.02))
    assert level_and_spread([2.0], 0.0) == pytest.approx((2.0, 1e-3))


def test_a_dsr_takes_map_and_score_from_its_evidence() -> None:
    model = small("encoder", "local", "detection")
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        examined = model.examine(images)
        result = model(images)
        assert model.familiarity is not None
        shown, strongest = model.familiarity(examined.logits, examined.features)
        encoder = model.discrete.fine_encoder
        local = encoder.conv2(torch.relu(encoder.conv1(levelled(images))))
    assert torch.equal(result.map, shown) and torch.equal(result.detection_map, strongest)
    assert torch.equal(result.score, image_score(strongest, model.score_side))
    assert torch.equal(examined.features["local"], local)
    assert not torch.equal(shown, strongest)
    plain = small()
    assert plain.familiarity is None
    assert "local" not in plain.examine(images).features
    torch.testing.assert_close(plain(images).map, torch.softmax(examined.logits, 1)[:, 1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['model.familiarity=["local", "local"]', "refine.steps=0"], "names a kind of features twice"),
        (['model.familiarity=["local"]'], "set refine.steps = 0"),
        (['model.familiarity=["colour"]', "refine.steps=0"], "familiarity"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, overrides)
