"""What is familiar is fitted to good parts, set against parts held out, and tried on painted defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawmap.bundle import build, load_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import read_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.inspector import Inspector
from flawmap.model.discrete import DiscreteModel
from flawmap.model.dsr import DSR
from flawmap.train import familiar
from flawmap.train.detect import Sample
from flawmap.train.run import train
from flawmap.train.sources import GoodParts

TINY = Path(__file__).parents[1] / "tiny.toml"
ALL = 'model.familiarity=["encoder", "local", "detection"]'
CPU = torch.device("cpu")


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


@pytest.mark.parametrize("exclude", ["[]", "[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"])
def test_densities_are_of_the_good_photos_within_border_and_scope(exclude: str, photos: list[Path]) -> None:
    recipe = recipe_of(f"image.exclude={exclude}")
    model = model_of(recipe)
    good = good_parts(photos, recipe)
    familiar.fit_densities(model, good, CPU)
    cells = []
    for index in range(len(good)):
        ((picture, inside),) = good.pictures(index)
        early = model.discrete.fine_encoder.early(picture)[0, :, 1:-1, 1:-1]
        counted = np.ones((14, 14), bool)
        if inside is not None:
            counted = inside.reshape(16, 4, 16, 4).any(axis=(1, 3))[1:-1, 1:-1]
            assert counted.sum() == 14 * 7
        cells.append(early.numpy()[:, counted])
    assert model.familiarity is not None
    density = dict(model.familiarity.named_densities())["encoder"]
    np.testing.assert_allclose(density.mean, np.concatenate(cells, axis=1).mean(axis=1), atol=1e-5)


def test_levels_are_those_of_the_largest_evidence_on_each_part_held_out(photos: list[Path]) -> None:
    recipe = recipe_of("model.score_side=5")
    model = model_of(recipe)
    held_out = good_parts(photos[:5], recipe)
    familiar.fit_densities(model, good_parts(photos[5:], recipe), CPU)
    familiar.set_levels(model, held_out, CPU)
    assert model.familiarity is not None
    largest = []
    for index in range(5):
        ((picture, _),) = held_out.pictures(index)
        examined = model.examine(picture)
        evidence = model.familiarity.evidence(examined.logits, examined.features)
        whole = torch.nn.functional.avg_pool2d(evidence[0], 5, 1, 2, count_include_pad=False)
        largest.append([float(found.max()) for found in (whole, *evidence[1:])])
    np.testing.assert_allclose(model.familiarity.levels, np.mean(largest, axis=0), rtol=1e-4)
    spreads = np.std(largest, axis=0, ddof=1)
    np.testing.assert_allclose(model.familiarity.spreads[1:3], spreads[1:3], rtol=1e-3)  # encoder, local


def bright_square(model: DSR, batch: torch.Tensor, *rest: Any) -> Sample:
    """Stands in for painting: a square that no good part has."""
    image, mask = batch.clone(), torch.zeros(len(batch), *batch.shape[-2:], dtype=torch.bool)
    image[..., 20:44, 20:44] = 1 - image[..., 20:44, 20:44]
    mask[:, 20:44, 20:44] = True
    codes = model.discrete.encode(image)
    return Sample(
        image, codes.coarse_codes, codes.fine_codes, codes.coarse_codes, codes.fine_codes, mask, torch.zeros_like(mask)
    )


def prepared(recipe: Recipe, photos: list[Path]) -> tuple[DSR, GoodParts]:
    model, held_out = model_of(recipe), good_parts(photos[:6], recipe)
    familiar.fit_densities(model, good_parts(photos[6:], recipe), CPU)
    return model, held_out


def test_a_source_that_finds_painted_defects_much_worse_is_left_out(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()
    model, held_out = prepared(recipe, photos)
    assert model.familiarity is not None
    dict(model.familiarity.named_densities())["local"].whitening.zero_()  # blind
    familiar.set_levels(model, held_out, CPU)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    found = familiar.keep_useful(model, held_out, recipe, CPU)
    assert list(found) == ["map", "encoder", "local", "detection"]
    assert found["encoder"] > 0.9 and found["local"] == 0.5
    assert "encoder" in model.familiarity.sources and "local" not in model.familiarity.sources
    assert len(model.familiarity.levels) == 1 + len(model.familiarity.sources)


@pytest.mark.parametrize("blind", [True, False])
def test_the_map_that_is_shown_is_the_one_that_outlines_better(
    blind: bool, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of('model.familiarity=["encoder"]')
    model, held_out = prepared(recipe, photos)
    familiar.set_levels(model, held_out, CPU)
    examine = DSR.examine

    def examined(self: DSR, image: torch.Tensor) -> Any:
        """With a map that sees the square exactly, or nothing at all."""
        away = torch.zeros(1, 64, 64)
        if not blind and (image - good).abs().amax((1, 2, 3)).min() > 0.02:
            away[:, 20:44, 20:44] = 9
        return examine(self, image)._replace(logits=torch.stack([-away, away], 1))

    good = torch.cat([next(held_out.pictures(index))[0] for index in range(6)])
    monkeypatch.setattr(DSR, "examine", examined)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    assert model.familiarity is not None
    familiar.keep_useful(model, held_out, recipe, CPU)
    assert model.familiarity.shares.tolist() == ([0.5, 0.5] if blind else [1.0, 0.0])


def test_painted_defects_where_nothing_counts_are_not_seen(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("image.exclude=[[[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]]]")
    model, held_out = prepared(recipe, photos)
    monkeypatch.setattr(familiar, "with_defects", bright_square)
    assert familiar.keep_useful(model, held_out, recipe, CPU) == {}


def test_without_painted_defects_everything_is_kept(photos: list[Path]) -> None:
    recipe = recipe_of("anomalies.place=codes")
    model, held_out = prepared(recipe, photos)
    assert familiar.keep_useful(model, held_out, recipe, CPU) == {}
    assert model.familiarity is not None and len(model.familiarity.sources) == 3


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


@pytest.mark.parametrize(("policy", "useful"), [("resize", 0.0), ("tile", 0.0), ("resize", 2.0)])
def test_a_training_ends_with_the_evidence_that_serves(
    policy: str, useful: float, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiar, "USEFUL", useful)
    monkeypatch.setattr(familiar, "with_defects", bright_square)  # of what is painted so small nothing is seen
    monkeypatch.setattr(familiar, "_together_outlines_better", lambda *arguments: True)  # shares of a third each
    kinds = ("encoder", "detection")
    recipe = recipe_of(f"image.policy={policy}", f"model.familiarity={list(kinds)}".replace("'", '"'))
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
        assert (bundle.model.familiarity.levels != 0).all()
        assert all(density.mean.any() for _, density in bundle.model.familiarity.named_densities())
    else:
        assert useful == 2, "what does not serve is not kept"
