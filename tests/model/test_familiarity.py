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
from flawmap.model.dsr import DSR, ScoreRule
from flawmap.model.familiarity import (
    KNOTS,
    SHRINKAGE,
    SOFTNESS,
    STEEPNESS,
    WINDOW,
    Density,
    Familiarity,
    Moments,
    Source,
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


def test_with_a_memory_the_distance_is_that_from_the_most_alike() -> None:
    features = correlated(200)
    density = fitted(features)
    alone = density(features[:3])
    kept = features[5:].permute(0, 2, 3, 1).flatten(0, 2)[::13] * 1.2
    density.remember(kept)
    cells = features.permute(1, 0, 2, 3).flatten(1).double().numpy()
    covariance = np.cov(cells, bias=True)
    inverse = np.linalg.inv(covariance + SHRINKAGE * covariance.diagonal().mean() * np.eye(5))
    seen = features[:3].permute(0, 2, 3, 1).double().numpy()[..., None, :] - kept.double().numpy()
    squares = np.einsum("bhwnc,cd,bhwnd->bhwn", seen, inverse, seen)
    np.testing.assert_allclose(density(features[:3])[:, 0].exp(), squares.min(-1) / 5, rtol=1e-3, atol=1e-4)
    known = kept[7].reshape(1, 5, 1, 1)
    assert float(density(known)) == pytest.approx(np.log(1e-6), abs=0.5), "what is remembered is no distance away"
    density.remember(density.mean[None])
    torch.testing.assert_close(density(features[:3]), alone, rtol=1e-4, atol=1e-4)
    density.remember(None)
    assert torch.equal(density(features[:3]), alone)


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


def straight(level: float, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Knots and heights of evidence that counts as deviations from a level."""
    heights = torch.arange(KNOTS, dtype=torch.float32) - 3
    return level + spread * heights, heights


def test_the_score_is_of_the_strongest_evidence_and_the_map_of_its_shares() -> None:
    familiarity = Familiarity({"encoder": 5, "detection": 4})
    for number, (level, spread) in enumerate(((0.5, 2.0), (1.0, 0.5), (-1.0, 1.5))):
        familiarity.knots[number], familiarity.heights[number] = straight(level, spread)
    logits = random(2, 2, 32, 32, seed=7)
    features = {"encoder": random(2, 5, 8, 8, seed=8), "detection": random(2, 4, 4, 4, seed=9)}
    evidence = familiarity.evidence(logits, features)
    torch.testing.assert_close(evidence[0][:, 0], logits[:, 1] - logits[:, 0])
    away = [
        (found - level) / spread
        for found, level, spread in zip(evidence, (0.5, 1.0, -1.0), (2.0, 0.5, 1.5), strict=True)
    ]
    size = {"size": (32, 32)}
    smooth = [torch.nn.functional.interpolate(each, **size, mode="bilinear")[:, 0] for each in away]
    shown, strongest = familiarity(logits, features)
    torch.testing.assert_close(shown, torch.sigmoid(STEEPNESS * torch.stack(smooth).mean(0)))
    torch.testing.assert_close(familiarity.above(logits, features), smooth)
    whole = torch.stack([torch.nn.functional.interpolate(each, **size)[:, 0] for each in away])  # no peak is flattened
    torch.testing.assert_close(strongest, torch.sigmoid(STEEPNESS * whole.amax(0)))
    familiarity.share(together=False)
    torch.testing.assert_close(familiarity(logits, features)[0], torch.sigmoid(STEEPNESS * smooth[0]))


@pytest.mark.parametrize("kinds", [0, 1, 3])
def test_a_log_mean_exp_lets_evidence_add_to_the_strongest(kinds: int) -> None:
    names: tuple[Source, ...] = ("encoder", "local", "detection")
    familiarity = Familiarity(dict.fromkeys(names[:kinds], 5), "log-mean-exp")
    for number in range(1 + kinds):
        familiarity.knots[number], familiarity.heights[number] = straight(number - 1.0, 0.5)
    logits = random(2, 2, 32, 32, seed=7)
    features = {name: random(2, 5, 8, 8, seed=8 + number) for number, name in enumerate(names)}
    away = [
        torch.nn.functional.interpolate((found - number + 1) / 0.5, size=(32, 32))[:, 0].double()
        for number, found in enumerate(familiarity.evidence(logits, features))
    ]
    wanted = SOFTNESS * (torch.stack(away) / SOFTNESS).exp().mean(0).log()
    torch.testing.assert_close(familiarity(logits, features)[1], torch.sigmoid(STEEPNESS * wanted).float())
    largest = torch.tensor([3.0, -2.0, 700.0, 1.0])[: 1 + kinds]  # too large for an exponential
    one = (largest.double() - torch.arange(1 + kinds) + 1) / 0.5
    joined = SOFTNESS * float((one / SOFTNESS).logsumexp(0) - np.log(1 + kinds))
    assert float(familiarity.together(largest)) == pytest.approx(joined, rel=1e-5)


@pytest.mark.parametrize(
    ("names", "bounded", "wanted"),
    [
        (("encoder", "imagenet", "imagenet_high"), True, [0.3, 0.3, 0.1, 0.3]),
        (("encoder", "imagenet", "imagenet_high"), False, [0.25] * 4),
        (("encoder", "imagenet"), True, [1 / 3] * 3),
        (("imagenet_high",), True, [0.5, 0.5]),
    ],
)
def test_in_a_bounded_map_low_resolution_counts_by_a_third_beside_high(
    names: tuple[Source, ...], bounded: bool, wanted: list[float]
) -> None:
    familiarity = Familiarity(dict.fromkeys(names, 5), "mean", bounded=bounded)
    familiarity.share(together=True)
    assert familiarity.shares.tolist() == pytest.approx(wanted)
    familiarity.share(together=False)
    assert familiarity.shares.tolist() == [1.0] + [0.0] * len(names)


def test_in_the_map_detections_own_counts_by_a_factor_of_what_it_counts_in_the_score() -> None:
    familiarity = Familiarity({"imagenet": 5, "imagenet_high": 5}, "mean", bounded=True)
    familiarity.share(together=True, own=0.5)
    assert familiarity.shares.tolist() == pytest.approx([3 / 11, 2 / 11, 6 / 11])
    familiarity.share(together=False, own=0.5)
    assert familiarity.shares.tolist() == [1, 0, 0], "alone it counts fully"


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("kinds", [0, 1, 3])
def test_a_mean_weighs_all_sources_alike_none_below_its_floor(kinds: int, bounded: bool) -> None:
    names: tuple[Source, ...] = ("encoder", "local", "detection")
    familiarity = Familiarity(dict.fromkeys(names[:kinds], 5), "mean", bounded=bounded)
    for number in range(1 + kinds):
        familiarity.knots[number], familiarity.heights[number] = straight(number - 1.0, 0.5)
    if familiarity.floors is not None:
        familiarity.floors[:] = torch.tensor([-0.5, -1.0, 0.25, -9.0])[: 1 + kinds]
    logits = random(2, 2, 32, 32, seed=7)
    features = {name: random(2, 5, 8, 8, seed=8 + number) for number, name in enumerate(names)}
    away = [
        torch.nn.functional.interpolate((found - number + 1) / 0.5, size=(32, 32))[:, 0].double()
        for number, found in enumerate(familiarity.evidence(logits, features))
    ]
    largest = torch.tensor([3.0, -2.0, 700.0, 1.0])[: 1 + kinds]
    one = (largest.double() - torch.arange(1 + kinds) + 1) / 0.5
    if familiarity.floors is not None:
        away = [found.clamp_min(float(floor)) for found, floor in zip(away, familiarity.floors, strict=True)]
        one = torch.maximum(one, familiarity.floors.double())
    wanted = torch.stack(away).mean(0)
    torch.testing.assert_close(familiarity(logits, features)[1], torch.sigmoid(STEEPNESS * wanted).float())
    assert float(familiarity.together(largest)) == pytest.approx(float(one.mean()), rel=1e-5)


def test_imagenets_evidence_is_of_features_averaged_over_their_surroundings() -> None:
    familiarity = Familiarity({"imagenet": 3})
    density = familiarity.densities["imagenet"]
    assert isinstance(density, Density)
    cells = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1.0, 2.0, 0.5])
    density.fit(cells.mean(0), torch.cov(cells.T))
    features = random(1, 3, 9, 12, seed=3)
    found = familiarity.evidence(random(1, 2, 36, 48, seed=4), {"imagenet": features})[1][0, 0]
    assert found.shape == (9, 12)
    for row, column in ((3, 3), (5, 8), (4, 6)):  # those whose surroundings lie within the border
        around = features[0, :, row - 2 : row + 3, column - 2 : column + 3].mean((1, 2))
        wanted = torch.log(((around - density.mean) @ density.whitening).square().mean())
        torch.testing.assert_close(found[row, column], wanted, rtol=1e-4, atol=1e-4)
    assert found[0, 0] == found[2, 2] == found[3, 3], "what is outermost is as its neighbours are"
    for height, width in ((4, 4), (2, 3), (1, 1), (6, 7)):  # squares that are too large for the image are smaller
        small = familiarity.evidence(
            random(1, 2, 4 * height, 4 * width, seed=4), {"imagenet": features[..., :height, :width]}
        )
        assert small[1].shape == (1, 1, height, width) and bool(small[1].isfinite().all())


def test_detections_map_counts_to_the_score_as_its_mean_over_a_square() -> None:
    familiarity = Familiarity({"encoder": 5})
    with torch.no_grad():
        familiarity.densities["encoder"].mean.fill_(0)  # type: ignore[union-attr, operator]
    logits = torch.zeros(1, 2, 32, 32)
    logits[0, 1, 10, 12] = 9.0
    features = {"encoder": torch.zeros(1, 5, 8, 8)}
    for side in (1, 3, 5):
        shown, strongest = familiarity(logits, features, side)
        torch.testing.assert_close(strongest.max(), torch.sigmoid(torch.tensor(STEEPNESS * 9.0 / side**2)))
        assert shown[0].argmax() == 10 * 32 + 12
    logits[0, 1, 0, 0] = 9.0  # what lies beyond the border does not count
    assert familiarity(logits, features, 3)[1][0, 0, 0] == pytest.approx(
        1 / (1 + np.exp(-STEEPNESS * 9.0 / 4)), rel=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=20))
def test_evidence_is_read_off_the_knots_and_goes_on_straight(values: list[float]) -> None:
    rng = np.random.default_rng(11)
    knots, heights = np.cumsum(rng.uniform(0.1, 2, KNOTS)) - 8, np.cumsum(rng.uniform(0.05, 1, KNOTS)) - 1
    familiarity = Familiarity({})
    familiarity.knots[0], familiarity.heights[0] = torch.tensor(knots), torch.tensor(heights)
    found = familiarity._calibrated(0, torch.tensor(values).view(1, 1, 1, -1)).flatten().numpy()
    first, last = (np.diff(heights)[index] / np.diff(knots)[index] for index in (0, -1))
    given = np.array(values)
    wanted = np.interp(given, knots, heights) + np.minimum(given - knots[0], 0) * first
    wanted += np.maximum(given - knots[-1], 0) * last
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_sources_that_are_left_out_take_their_knots_with_them() -> None:
    familiarity = Familiarity({"encoder": 5, "local": 5, "detection": 4})
    familiarity.knots.copy_(torch.arange(4.0)[:, None] + torch.arange(KNOTS))
    familiarity.heights.copy_(torch.arange(4.0)[:, None] + 2 * torch.arange(KNOTS))
    familiarity.keep({"detection"})
    assert familiarity.sources == ("detection",)
    assert familiarity.knots[:, 0].tolist() == [0, 3] and familiarity.heights[:, 0].tolist() == [0, 3]
    assert familiarity.shares.tolist() == [0.5, 0.5]
    assert set(familiarity.state_dict()) == set(Familiarity({"detection": 4}).state_dict())


def test_moments_of_parts_are_those_of_all() -> None:
    features = correlated(4)
    parts, together = [Moments(5), Moments(5)], Moments(5)
    for number, part in enumerate(features.split(1)):
        parts[number % 2].add(part)
        together.add(part)
    joined = Moments.of(parts)
    assert joined.count == together.count
    torch.testing.assert_close(joined.mean(), together.mean())
    torch.testing.assert_close(joined.covariance(), together.covariance())


def test_a_dsr_takes_map_and_score_from_its_evidence() -> None:
    model = small("encoder", "local", "detection")
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        examined = model.examine(images)
        result = model(images)
        assert model.familiarity is not None
        shown, strongest = model.familiarity(examined.logits, examined.features, model.map_side)
        encoder = model.discrete.fine_encoder
        local = encoder.conv2(torch.relu(encoder.conv1(levelled(images))))
    assert torch.equal(result.map, shown) and torch.equal(result.detection_map, strongest)
    assert torch.equal(result.score, strongest.flatten(1).amax(1)) and model.score_rule == ScoreRule(1) != ScoreRule(
        model.map_side
    )
    assert torch.equal(examined.features["local"], local)
    assert not torch.equal(shown, strongest)
    plain = small()
    assert plain.familiarity is None and plain.score_rule == ScoreRule(plain.map_side)
    assert "local" not in plain.examine(images).features
    torch.testing.assert_close(plain(images).map, torch.softmax(examined.logits, 1)[:, 1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['model.familiarity=["local", "local"]', "refine.steps=0"], "names a kind of features twice"),
        (['model.familiarity=["local"]'], "set refine.steps = 0"),
        (['model.familiarity=["colour"]', "refine.steps=0"], "familiarity"),
        (["model.guided=true"], "guided needs familiarity"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, overrides)
