"""What is familiar is fitted to good parts, set against parts held out, and tried on painted defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawmap.bundle import build, load_bundle, load_imagenet
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.batch import page_provenance
from flawmap.deploy.evaluation import threshold_at
from flawmap.deploy.inspector import Inspector
from flawmap.measure.evidence import NONE
from flawmap.model.discrete import DiscreteModel
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import LOW, STEEPNESS
from flawmap.train import familiar
from flawmap.train.detect import Sample
from flawmap.train.renew import renew
from flawmap.train.run import train
from flawmap.train.sources import GoodParts

TINY = Path(__file__).parents[1] / "tiny.toml"
ALL = 'model.familiarity=["encoder", "local", "detection"]'
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(familiar, "PAINTED", 24)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=96, train=12, good=2, bad=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def photos(parts: Path) -> list[Path]:
    return sorted(sample.image for sample in read_layout(parts).train_good)


def recipe_of(*settings: str) -> Recipe:
    return load_recipe(TINY, ["refine.steps=0", "model.norm=batch", "anomalies.place=image", ALL, *settings])


def model_of(recipe: Recipe) -> DSR:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(recipe.model, with_refinement=False).eval().requires_grad_(False)


def good_parts(photos: list[Path], recipe: Recipe) -> GoodParts:
    return GoodParts(photos, recipe, Scope(recipe.image, None))


def fit_of(model: DSR, trained: list[Path], held_out: list[Path], recipe: Recipe) -> familiar.CrossFit:
    return familiar.CrossFit(model, good_parts(trained, recipe), good_parts(held_out, recipe), recipe, CPU)


def fitted_by_imagenet(recipe: Recipe, photos: list[Path]) -> tuple[DSR, familiar.CrossFit]:
    """A model with the shipped network, fitted to good photos."""
    model = model_of(recipe)
    assert model.imagenet is not None
    load_imagenet(model.imagenet)
    fit = fit_of(model, photos[:9], photos[9:], recipe)
    fit.fit()
    return model, fit


def early(model: DSR, good: GoodParts, index: int) -> np.ndarray:
    """Features of the encoder that count, (C, cells)."""
    ((picture, inside),) = good.pictures(index)
    features = model.discrete.fine_encoder.early(picture)[0, :, 1:-1, 1:-1]
    counted = np.ones((14, 14), bool)
    if inside is not None:
        counted = inside.reshape(16, 4, 16, 4).any(axis=(1, 3))[1:-1, 1:-1]
        assert counted.sum() == 14 * 7
    return features.numpy()[:, counted]


@pytest.mark.parametrize("exclude", ["[]", "[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"])
@pytest.mark.parametrize("calibration", ["held-out", "cross-fitted"])
def test_densities_are_of_the_good_photos_within_border_and_scope(
    calibration: str, exclude: str, photos: list[Path]
) -> None:
    recipe = recipe_of(f"image.exclude={exclude}", f"threshold.calibration={calibration}", "anomalies.place=codes")
    model = model_of(recipe)
    fit = fit_of(model, photos[:9], photos[9:], recipe)
    fit.fit()
    assert model.familiarity is not None
    density = dict(model.familiarity.named_densities())["encoder"]
    cells = [early(model, good_parts(photos, recipe), index) for index in range(len(photos))]
    learnt = cells if calibration == "cross-fitted" else cells[:9]
    np.testing.assert_allclose(density.mean, np.concatenate(learnt, axis=1).mean(axis=1), atol=1e-3)
    group = int(fit.told.groups[0])
    fit.leave_out(group)
    others = learnt
    if calibration == "cross-fitted":
        others = [cells[number] for number in range(len(photos)) if fit.told.groups[number] != group]
    np.testing.assert_allclose(density.mean, np.concatenate(others, axis=1).mean(axis=1), atol=1e-3)


def test_evidence_is_the_largest_on_each_photo_by_gaussians_it_is_not_in(photos: list[Path]) -> None:
    recipe = recipe_of("model.score_side=5", "threshold.calibration=cross-fitted", "anomalies.place=codes")
    model = model_of(recipe)
    fit = fit_of(model, photos[:9], photos[9:], recipe)
    fit.fit()
    assert model.familiarity is not None and len(fit.places) == len(photos)
    for number, (parts, index) in enumerate(fit.places):
        ((picture, _),) = parts.pictures(index)
        fit.leave_out(int(fit.told.groups[number]))
        examined = model.examine(picture)
        evidence = model.familiarity.evidence(examined.logits, examined.features)
        whole = torch.nn.functional.avg_pool2d(evidence[0], 5, 1, 2, count_include_pad=False)
        wanted = [float(found.max()) for found in (whole, *evidence[1:])]
        np.testing.assert_allclose(fit.told.largest[number], wanted, rtol=1e-4, atol=1e-4)


def test_what_surrounds_cells_that_count_is_known_to_imagenets_gaussian(photos: list[Path]) -> None:
    kinds = ("model.familiarity=['encoder', 'imagenet']", "image.height=128", "image.width=128", "detect.crop=128")
    counts = []
    for exclude in ("[]", "[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"):
        recipe = recipe_of(*kinds, f"image.exclude={exclude}", "threshold.calibration=cross-fitted")
        fit = fit_of(model_of(recipe), photos[:9], photos[9:], recipe)
        familiar.add_moments(fit.told, [(fit.places[0], 0)], familiar.Looks(fit.model, CPU))
        counts.append({name: sums.count for name, sums in fit.told.moments[0].items()})
    assert counts[0] == {"encoder": 30 * 30, "imagenet": 6 * 6}, "without the border"
    assert counts[1] == {"encoder": 30 * 15, "imagenet": 6 * 6}, "the evidence of half the photo is of means over all"


@pytest.mark.parametrize("calibration", ["held-out", "cross-fitted"])
def test_places_of_all_good_photos_are_remembered_and_left_out_with_their_group(
    calibration: str, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiar, "PHOTOS", 4)  # of which the Gaussians are
    recipe = recipe_of(
        "model.familiarity=['imagenet']", "model.memory=24", "image.height=128", "image.width=128", "detect.crop=128",
        f"threshold.calibration={calibration}", "anomalies.place=codes",
    )  # fmt: skip
    model, fit = fitted_by_imagenet(recipe, photos)
    familiarity, network = model.familiarity, model.imagenet
    assert familiarity is not None and network is not None

    def away(photo: Path, left_out: int) -> float:
        """How far the most familiar place of a photo is from all that is remembered, a logarithm."""
        fit.leave_out(left_out)
        ((picture, _),) = good_parts([photo], recipe).pictures(0)
        return float(familiarity.evidence(torch.zeros(1, 2, 128, 128), {"imagenet": network(picture)})[1].min())

    usual = np.median([away(photo, NONE) for photo in photos[9:]]) if calibration == "held-out" else 0.0
    remembered = {photo for photo in photos if away(photo, NONE) < usual - 5}
    assert 24 <= sum(map(len, fit.told.patches[LOW].values())) <= 24 + familiar.FOLDS
    if calibration == "held-out":
        assert len(remembered) > 4 and remembered <= set(photos[:9]), "none of those that are held out"
        return
    assert len(remembered) > 6 and remembered & {parts.paths[index] for parts, index in fit.places}
    for (parts, index), group in zip(fit.places, fit.told.groups.tolist(), strict=True):
        if parts.paths[index] in remembered:
            assert away(parts.paths[index], group) > -5 > away(parts.paths[index], NONE)


def test_of_tiles_places_are_remembered_too_and_of_many_cells_some(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("model.familiarity=['imagenet']", "model.memory=4000", "threshold.calibration=cross-fitted")
    found = []
    for cells in (familiar.CELLS, 8):
        monkeypatch.setattr(familiar, "CELLS", cells)
        recipe = recipe_of(*settings, "image.policy=tile", "image.overlap=0.5", "anomalies.place=codes")
        fit = fit_of(model_of(recipe), photos[:9], photos[9:], recipe)
        fit.fit()
        assert fit.told.remembered == 12 and fit.model.familiarity is not None
        found.append(sum(map(len, fit.told.patches[LOW].values())))
    tiles = 4  # of 96 pixels, by tiles of 64 that overlap by half
    assert found == [12 * tiles * 4, 12 * tiles], "all 2 by 2 places of a tile, or one"


@pytest.mark.parametrize("columns", [(0.0, 0.2), (0.3, 0.5), (0.9, 1.0)])
def test_a_strip_of_the_photo_is_judged_by_places_that_are_remembered(
    columns: tuple[float, float], photos: list[Path]
) -> None:
    left, right = columns
    recipe = recipe_of(
        "model.familiarity=['imagenet']", "model.memory=1000", "image.height=160", "image.width=160",
        "detect.crop=128", f"image.include=[[[{left}, 0], [{right}, 0], [{right}, 1], [{left}, 1]]]",
        "threshold.calibration=cross-fitted", "anomalies.place=codes",
    )  # fmt: skip
    model, fit = fitted_by_imagenet(recipe, photos)
    assert model.familiarity is not None and model.imagenet is not None
    whole = len(photos) * 4 * 4  # places that have surroundings
    assert 0 < sum(map(len, fit.told.patches[LOW].values())) < whole
    for index in range(len(photos)):
        ((picture, inside),) = good_parts(photos, recipe).pictures(index)
        found = model.familiarity.evidence(torch.zeros(1, 2, 160, 160), {"imagenet": model.imagenet(picture)})[1][0, 0]
        assert inside is not None
        cells = inside.reshape(40, 4, 40, 4).any(axis=(1, 3))
        assert float(found[torch.from_numpy(cells)].max()) < -5, "all that counts is known, as all of it is remembered"


def test_the_score_of_a_photo_is_that_of_its_strongest_evidence(photos: list[Path]) -> None:
    recipe = recipe_of("model.score_side=5", "threshold.calibration=cross-fitted", "anomalies.place=codes")
    model = model_of(recipe)
    fit = fit_of(model, photos[:9], photos[9:], recipe)
    fit.fit()
    scores, _ = fit.scores()
    assert model.familiarity is not None
    for number, group in enumerate(fit.told.groups.tolist()):
        fit.leave_out(group)
        away = [
            float(model.familiarity._calibrated(kind, torch.tensor(value).float().view(1, 1, 1, 1)))
            for kind, value in enumerate(fit.told.largest[number])
        ]
        assert scores[number] == pytest.approx(1 / (1 + np.exp(-STEEPNESS * max(away))), abs=1e-4)


def bright_square(model: DSR, batch: torch.Tensor, *rest: Any) -> Sample:
    """Stands in for painting: a square that no good part has."""
    image, mask = batch.clone(), torch.zeros(len(batch), *batch.shape[-2:], dtype=torch.bool)
    image[..., 20:44, 20:44] = 1 - image[..., 20:44, 20:44]
    mask[:, 20:44, 20:44] = True
    codes = model.discrete.encode(image)
    return Sample(
        image, codes.coarse_codes, codes.fine_codes, codes.coarse_codes, codes.fine_codes, mask, torch.zeros_like(mask)
    )


def prepared(recipe: Recipe, photos: list[Path]) -> familiar.CrossFit:
    return fit_of(model_of(recipe), photos[6:], photos[:6], recipe)


def test_a_source_that_finds_painted_defects_much_worse_is_left_out(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = prepared(recipe_of(), photos)
    evidence = familiar._evidence

    def blind(*arguments: Any) -> Any:
        """The image with its contrast levelled shows nothing."""
        for number, (found, cells) in enumerate(evidence(*arguments)):
            yield (found * 0 if number == 2 else found), cells

    monkeypatch.setattr(familiar, "_evidence", blind)
    monkeypatch.setattr(familiar, "UNSTEADY", 100.0)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    found = fit.fit()
    assert list(found) == ["map", "encoder", "local", "detection"]
    assert found["encoder"] > 0.9 and found["local"] == 0.5
    familiarity = fit.model.familiarity
    assert familiarity is not None
    assert "encoder" in familiarity.sources and "local" not in familiarity.sources
    assert len(familiarity.knots) == 1 + len(familiarity.sources)
    above = np.array([found[name] - 0.5 for name in ("map", *familiarity.sources)]).clip(0)
    counts = (above / above.max()).clip(0.01)
    np.testing.assert_allclose(fit.told.trust, counts)
    assert fit.told.trust.min() < 0.9, "what counts less is told"
    worn = familiarity.heights.clone()
    fit.told.trust[:] = 1
    fit.leave_out(NONE)
    wanted = torch.from_numpy(counts).float()[:, None] * familiarity.heights
    torch.testing.assert_close(worn, wanted, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([0.9, 0.7, 0.9], [1.0, 0.125, 1.0]),
        ([0.7, 0.9, 0.8], [0.5**3, 1.0, 0.75**3]),
        ([0.5, 0.9, 0.8], [0.01, 1.0, 0.75**3]),
    ],
)
def test_cubed_weights_are_third_powers_of_what_is_found_above_chance(
    found: list[float], wanted: list[float], photos: list[Path]
) -> None:
    fit = prepared(recipe_of("model.source_weights=cubed"), photos)
    kinds = ("map", "encoder", "local")
    np.testing.assert_allclose(fit._weights(dict(zip(kinds, found, strict=True)), kinds), wanted)


def test_evidence_counts_by_what_it_finds_above_chance() -> None:
    np.testing.assert_allclose(familiar.trust([0.6, 0.9, 0.3]), [0.25, 1.0, 0.01])
    np.testing.assert_allclose(familiar.trust([0.5, 0.4]), [1.0, 1.0])


def test_a_source_that_varies_much_from_one_good_photo_to_the_next_is_left_out(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = prepared(recipe_of(), photos)
    evidence, calls = familiar._evidence, iter(range(10**6))

    def wavering(*arguments: Any) -> Any:
        away = 3.0 * (next(calls) % 2)
        for number, (found, cells) in enumerate(evidence(*arguments)):
            yield (found + away if number == 1 else found), cells

    monkeypatch.setattr(familiar, "_evidence", wavering)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    monkeypatch.setattr(familiar, "USEFUL", 0.0)
    fit.fit()
    assert fit.model.familiarity is not None
    assert "encoder" not in fit.model.familiarity.sources and fit.model.familiarity.sources


@pytest.mark.parametrize(("weights", "left_out"), [("cubed", True), ("selected", False)])
def test_with_cubed_weights_a_source_that_varies_much_from_place_to_place_is_left_out_unless_pretrained(
    weights: str, left_out: bool, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = 'model.familiarity=["encoder", "local", "imagenet"]'
    fit = prepared(recipe_of(kinds, f"model.source_weights={weights}"), photos)
    evidence = familiar._evidence

    def uneven(*arguments: Any) -> Any:
        for number, (found, cells) in enumerate(evidence(*arguments)):
            height = found.shape[-2]
            rows = torch.arange(height)[:, None] < height // 2
            yield (found * 0 + 0.01 * found - 2.0 * rows if number in (1, 3) else 0.01 * found), cells

    monkeypatch.setattr(familiar, "_evidence", uneven)
    for name, value in (("UNSTEADY", 100.0), ("USEFUL", 0.0), ("with_defects", bright_square)):
        monkeypatch.setattr(familiar, name, value)
    fit.fit()
    assert fit.model.familiarity is not None
    kept = ("local", "imagenet") if left_out else ("encoder", "local", "imagenet")
    assert fit.model.familiarity.sources == kept
    own, *others = fit.model.familiarity.shares.tolist()
    weight = fit.told.trust[0]
    assert others == pytest.approx([others[0]] * len(kept))
    in_map = min(weight**2, 0.5) if left_out else weight  # cubed: detection's own was trained on what weighs it
    assert weight * own / others[0] == pytest.approx(in_map, rel=2e-3)


@pytest.mark.parametrize("blind", [True, False])
def test_the_map_that_is_shown_is_the_one_that_outlines_better(
    blind: bool, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = prepared(recipe_of('model.familiarity=["encoder"]'), photos)
    examine = DSR.examine

    def examined(self: DSR, image: torch.Tensor) -> Any:
        """With a map that sees the square exactly, or nothing at all."""
        away = torch.zeros(1, 64, 64)
        if not blind and (image - good).abs().amax((1, 2, 3)).min() > 0.02:
            away[:, 20:44, 20:44] = 9
        return examine(self, image)._replace(logits=torch.stack([-away, away], 1))

    good = torch.cat([next(parts.pictures(index))[0] for parts, index in fit.places])
    good = torch.cat([good, *(next(good_parts(photos, fit.recipe).pictures(index))[0] for index in range(len(photos)))])
    monkeypatch.setattr(familiar, "ADVANTAGE", 1.0)
    monkeypatch.setattr(DSR, "examine", examined)
    monkeypatch.setattr(familiar, "UNSTEADY", 100.0)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    fit.fit()
    assert fit.model.familiarity is not None
    assert fit.model.familiarity.shares.tolist() == ([0.5, 0.5] if blind else [1.0, 0.0])


@pytest.mark.parametrize("kinds", ['["encoder"]', '["encoder", "imagenet"]'])
def test_with_imagenets_features_the_map_that_is_shown_is_of_all(
    kinds: str, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = prepared(recipe_of(f"model.familiarity={kinds}"), photos)
    monkeypatch.setattr(familiar, "_together_outlines_better", lambda *_: False)
    for name, value in (("UNSTEADY", 100.0), ("USEFUL", 0.0), ("with_defects", bright_square)):
        monkeypatch.setattr(familiar, name, value)
    fit.fit()
    assert fit.model.familiarity is not None
    shares = fit.model.familiarity.shares.tolist()
    alone = [1 / fit.told.trust[0], 0.0]  # as it is, whatever it counts as
    assert shares == pytest.approx([1 / 3] * 3 if "imagenet" in kinds else alone, rel=1e-3)


def test_painted_defects_where_nothing_counts_are_not_seen(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("image.exclude=[[[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]]]")
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    assert prepared(recipe, photos).fit() == {}


def test_without_painted_defects_everything_is_kept(photos: list[Path]) -> None:
    fit = prepared(recipe_of("anomalies.place=codes"), photos)
    assert fit.fit() == {}
    assert fit.model.familiarity is not None and len(fit.model.familiarity.sources) == 3


@pytest.mark.parametrize("limit", [0, 4])
def test_tiles_of_a_part_are_its_windows_and_what_of_them_counts(limit: int, photos: list[Path]) -> None:
    recipe = recipe_of("image.policy=tile", "image.height=32", "image.width=32")
    exclude = "image.exclude=[[[0, 0], [0.4, 0], [0.4, 1], [0, 1]]]"
    for chosen in (recipe, recipe_of("image.policy=tile", "image.height=32", "image.width=32", exclude)):
        pictures = list(good_parts(photos, chosen).pictures(0, limit))
        assert all(picture.shape == (1, 3, 32, 32) for picture, _ in pictures)
        insides = [inside for _, inside in pictures]
        if chosen is recipe:
            assert set(insides) == {None}
            assert len(pictures) == (16 if limit == 0 else limit)
        else:
            assert all(inside is not None and inside.shape == (32, 32) and inside.any() for inside in insides)
            assert limit or not all(inside.all() for inside in insides if inside is not None), (
                "some reach into the rest"
            )
    photo = read_image(photos[0])
    corner = torch.from_numpy(photo[:32, :32].transpose(2, 0, 1))
    first = next(good_parts(photos, recipe).pictures(0))[0][0]
    torch.testing.assert_close(first, corner)


@pytest.mark.parametrize(
    ("policy", "useful", "calibration", "folds"),
    [
        ("resize", 0.0, "held-out", "random"),
        ("resize", 0.0, "held-out", "runs"),
        ("resize", 0.0, "cross-fitted", "random"),
        ("resize", 0.0, "cross-fitted", "runs"),
        ("tile", 0.0, "cross-fitted", "runs"),
        ("resize", 2.0, "cross-fitted", "random"),
    ],
)
def test_a_training_ends_with_the_evidence_that_serves(
    policy: str,
    useful: float,
    calibration: str,
    folds: str,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(familiar, "USEFUL", useful)
    monkeypatch.setattr(familiar, "UNSTEADY", 100.0)
    monkeypatch.setattr(familiar, "with_defects", bright_square)  # of what is painted so small nothing is seen
    monkeypatch.setattr(familiar, "_together_outlines_better", lambda *_: True)  # shares of a third each
    kinds = ("encoder", "detection")
    told = f"threshold.calibration={calibration}", f"threshold.folds={folds}"
    recipe = recipe_of(f"image.policy={policy}", *told, f"model.familiarity={list(kinds)}".replace("'", '"'))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    made = [
        train(read_layout(parts), recipe, tmp_path / f"{name}.bundle", general=general, quiet=True) for name in "ab"
    ]
    bundle = load_bundle(tmp_path / "a.bundle")
    assert bundle.recipe.model.familiarity == (kinds if useful == 0 else ())
    assert set(bundle.provenance["evidence"]) == {"map", *kinds}
    again = load_bundle(tmp_path / "b.bundle")
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    photo = read_layout(parts).test[0].image
    found, same = (Inspector(each, device="cpu").inspect(photo) for each in (bundle, made[0]))
    assert found.score == same.score and np.array_equal(found.map, same.map)
    if bundle.model.familiarity is not None:
        assert (bundle.model.familiarity.knots[:, 0] != 0).all()
        good = read_layout(parts).train_good
        told = len(bundle.provenance["held_out_scores"])
        assert told == (len(good) if calibration == "cross-fitted" else bundle.provenance["held_out"])
        assert bundle.threshold is not None and bundle.threshold.method == f"{calibration} good"
        assert all(density.mean.any() for _, density in bundle.model.familiarity.named_densities())
    else:
        assert useful == 2, "what does not serve is not kept"


@pytest.mark.parametrize("room", [familiar.KEPT_BYTES, 0])
def test_photos_are_looked_at_once_where_there_is_room_and_scored_as_anew(
    room: int, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiar, "KEPT_BYTES", room)
    exclude = "image.exclude=[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"
    recipe = recipe_of(exclude, "threshold.calibration=cross-fitted", "anomalies.place=codes")  # none are painted
    fit = fit_of(model := model_of(recipe), photos[:9], photos[9:], recipe)
    looks = 0
    examine = model.examine

    def counted(image: torch.Tensor) -> Any:
        nonlocal looks
        looks += 1
        return examine(image)

    monkeypatch.setattr(model, "examine", counted)
    fit.fit()
    scores, peaks = fit.scores()
    assert looks == (1 if room else 3) * len(photos)
    for number, ((parts, index), group) in enumerate(zip(fit.places, fit.told.groups.tolist(), strict=True)):
        fit.leave_out(group)
        assert (scores[number], peaks[number]) == parts.score(model, index, CPU)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of four sheets, one after another, each of another colour."""
    folder = tmp_path_factory.mktemp("sheets")
    write_sample_parts(folder / "drawn", SURFACES[0], size=96, train=32, good=1, bad=1, seed=1)
    colours = np.array([[1.0, 0.2, 0.2], [0.2, 1.0, 0.2], [0.2, 0.2, 1.0], [1.0, 1.0, 1.0]])
    for number, sample in enumerate(read_layout(folder / "drawn").train_good):
        pixels = read_image(sample.image) * colours[number // 8]
        write_image(folder / f"{number}.png", (255 * pixels).round().astype(np.uint8))
    return [folder / f"{number}.png" for number in range(32)]


@pytest.mark.parametrize("kinds", ['["encoder"]', '["encoder", "imagenet"]'])
@pytest.mark.parametrize("policy", ["resize", "tile"])
def test_photos_of_a_sheet_are_left_out_together_and_counted_as_one(
    kinds: str, policy: str, sheets: list[Path]
) -> None:
    settings = f"model.familiarity={kinds}", f"image.policy={policy}", "threshold.folds=runs"
    recipe = recipe_of(*settings, "threshold.calibration=cross-fitted", "model.memory=64")
    model = model_of(recipe)
    if model.imagenet is not None:
        load_imagenet(model.imagenet)
    fit = fit_of(model, sheets[:10] + sheets[20:], sheets[10:20], recipe)
    assert fit.independent is not None and fit.independent.by == "order" and fit.independent.count <= 8
    fold_of = {parts.paths[index]: fold for (parts, index), fold in zip(fit.places, fit.independent.folds, strict=True)}
    assert all(len({fold_of[path] for path in sheets[start : start + 8]}) <= 2 for start in range(0, 32, 8))
    at_random = fit_of(model, sheets[:22], sheets[22:], recipe_of("threshold.calibration=cross-fitted"))
    assert at_random.independent is None


def test_good_photos_are_scored_without_their_run_by_sources_calibrated_as_before(sheets: list[Path]) -> None:
    models = []
    for folds in ("random", "runs"):
        kinds, cross = 'model.familiarity=["encoder", "imagenet"]', "threshold.calibration=cross-fitted"
        recipe = recipe_of(kinds, cross, f"threshold.folds={folds}", "model.memory=64", "anomalies.place=codes")
        models.append(model := model_of(recipe))
        assert model.imagenet is not None
        load_imagenet(model.imagenet)
        fit = fit_of(model, sheets[:10] + sheets[20:], sheets[10:20], recipe)
        fit.fit()
    states = [each.state_dict() for each in models]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    told = fit.told.largest.copy()
    siblings_known = []
    for (parts, index), group in zip(fit.places, fit.told.groups.tolist(), strict=True):
        fit.leave_out(group)
        siblings_known.append(parts.score(model, index, CPU)[0])
    fit.leave_out(NONE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores, _ = fit.scores()
    assert np.mean(scores) > np.mean(siblings_known) + 0.05
    assert np.array_equal(fit.told.largest, told)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert fit.independent is not None and not np.array_equal(fit.told.groups, fit.independent.folds)


def test_only_groups_of_the_photos_held_out_count_where_these_alone_set_the_threshold(sheets: list[Path]) -> None:
    recipe = recipe_of("threshold.folds=runs")
    fit = fit_of(model_of(recipe), sheets[:8], sheets[8:], recipe)
    assert fit.independent is not None and fit.independent.count <= 6
    assert len(set(fit.told.groups.tolist())) == fit.independent.count


def test_a_bundle_says_how_many_independent_groups_there_are(sheets: list[Path], tmp_path: Path) -> None:
    recipe = recipe_of("threshold.calibration=cross-fitted", "threshold.folds=runs", "threshold.overkill=0.05")
    folder = tmp_path / "parts"
    (folder / "train" / "good").mkdir(parents=True)
    for path in sheets:
        (folder / "train" / "good" / path.name).write_bytes(path.read_bytes())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    recipe = recipe.model_copy(update={"anomalies": recipe.anomalies.model_copy(update={"place": "codes"})})
    train(read_layout(folder), recipe, tmp_path / "a.bundle", general=general, quiet=True)
    bundle = load_bundle(tmp_path / "a.bundle")
    groups = bundle.provenance["groups"]
    assert groups["by"] == "order" and groups["count"] <= 8
    assert bundle.threshold is not None and not bundle.threshold.supported
    assert bundle.threshold.note.startswith(
        f"No promise: {groups['count']} independent groups (by order of capture); 19"
    )
    assert threshold_at(bundle, 0.05) == bundle.threshold
    assert threshold_at(bundle, 0.3).supported
    assert page_provenance(bundle)["groups"] == f"{groups['count']} independent groups (by order of capture)"
    again, _ = renew(bundle, "a.bundle", sheets[:4])
    assert again.provenance["groups"] == groups, "photos that were known are no new groups"
    later = []
    for number, path in enumerate(sheets[:4]):
        later.append(tmp_path / f"later{number}.png")
        later[-1].write_bytes(path.read_bytes())
    renewed, _ = renew(bundle, "a.bundle", later)
    assert renewed.provenance["groups"] == groups | {"count": groups["count"] + 1}, "taken in at once: one run"
    assert not renewed.threshold.supported if renewed.threshold else False
