"""Memory banks hold patches of turned photos, group by group."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.bundle import build, load_bundle, load_imagenet
from flawmap.config import load_recipe
from flawmap.data.dataset import rotated
from flawmap.data.images import to_uint8, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.data.surfaces import draw_good, write_sample_parts
from flawmap.measure.evidence import NONE
from flawmap.model.discrete import DiscreteModel
from flawmap.model.familiarity import HIGH, LOW
from flawmap.train import familiar
from flawmap.train.familiar import QUARTERS, CrossFit, Looks, patches_of
from flawmap.train.leave_out import LeaveOut
from flawmap.train.renew import renew
from flawmap.train.run import train
from flawmap.train.sources import GoodParts

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = ["refine.steps=0", "model.norm=batch", "anomalies.place=codes", "image.height=128", "image.width=128",
            "detect.crop=128", "model.familiarity=['imagenet', 'imagenet_high']", "model.components=16",
            "model.memory=48", "model.neighbourhood=3", "threshold.calibration=cross-fitted"]  # fmt: skip
CPU = torch.device("cpu")


def test_a_positive_angle_turns_counterclockwise() -> None:
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = rotated(picture, torch.tensor([math.pi / 2, math.pi]), "reflection", "bicubic")
    torch.testing.assert_close(found[0], torch.rot90(picture[0], 1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], torch.rot90(picture[1], 2, (1, 2)), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Good photos of wood whose grain runs across, a different piece each."""
    folder = tmp_path_factory.mktemp("wood")
    for number in range(12):
        image = draw_good("wood", 128, np.random.default_rng([2, number]))
        write_image(folder / f"{number:02}.png", to_uint8(image))
    return sorted(folder.iterdir())


def fit_of(photos: list[Path], turned: str, *settings: str) -> CrossFit:
    recipe = load_recipe(TINY, [*SETTINGS, f"model.turned_patches={turned}", *settings])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=False).eval().requires_grad_(False)
    assert model.imagenet is not None
    load_imagenet(model.imagenet)  # type: ignore[arg-type]
    scope = Scope(recipe.image, None)
    found = CrossFit(model, GoodParts(photos[:9], recipe, scope), GoodParts(photos[9:], recipe, scope), recipe, CPU)
    found.fit()
    return found


def looked_at(fit: CrossFit, photo: Path) -> list[tuple[dict[str, torch.Tensor], np.ndarray | None]]:
    """Pretrained features of a photo turned by each quarter, and what counts."""
    parts = GoodParts([photo], fit.recipe, Scope(fit.recipe.image, None))
    return list(Looks(fit.model, CPU).turned((parts, 0)))


@pytest.mark.parametrize("name", [LOW, HIGH])
def test_banks_hold_patches_of_turned_photos_in_the_group_of_the_photo(name: str, photos: list[Path]) -> None:
    fit = fit_of(photos, "always")
    assert 48 <= sum(map(len, fit.told.patches[name].values())) <= 48 + familiar.FOLDS, "no more than without"
    turned = 0
    for (parts, index), group in zip(fit.places, fit.told.groups.tolist(), strict=True):
        for features, inside in looked_at(fit, parts.paths[index]):
            own = patches_of(features[name], inside, 3)
            for other, bank in fit.told.patches[name].items():
                same = int((torch.cdist(bank, own) < 1e-2 * bank.norm(dim=1, keepdim=True)).any(1).sum())
                assert not same or other == group
                turned += same
    assert turned > 24, "most patches are of turned photos, which are three of four"


def test_turned_photos_lose_nothing_whatever_their_shape(photos: list[Path]) -> None:
    exclude = "[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"  # the left half
    recipe = load_recipe(TINY, [*SETTINGS, "image.height=96", f"image.exclude={exclude}"])
    model = build(recipe.model, with_refinement=False).eval()
    seen: list[torch.Tensor] = []
    model.pretrained = lambda picture: seen.append(picture) or {}  # type: ignore[method-assign, assignment]
    parts = GoodParts(photos[:1], recipe, Scope(recipe.image, None))
    counts = [inside for _, inside in Looks(model, CPU).turned((parts, 0))]
    ((picture, _),) = parts.pictures(0)
    assert len(seen) == len(QUARTERS) == 3
    for quarters, (found, inside) in enumerate(zip(seen, counts, strict=True), 1):
        torch.testing.assert_close(torch.rot90(found, -quarters, (-2, -1)), picture, atol=0, rtol=0)
        assert inside is not None and inside.shape == found.shape[-2:]
        assert np.rot90(inside, -quarters)[:, 64:].all() and not np.rot90(inside, -quarters)[:, :64].any()


def test_a_backbone_that_takes_one_size_alone_sees_half_turns_of_oblong_photos(photos: list[Path]) -> None:
    recipe = load_recipe(TINY, [*SETTINGS, "image.height=96"])
    model = build(recipe.model, with_refinement=False).eval()
    shapes: list[tuple[int, ...]] = []
    model.pretrained = lambda picture: shapes.append(picture.shape[-2:]) or {}  # type: ignore[method-assign, assignment]
    model.imagenet.size = (96, 128)  # type: ignore[union-attr, assignment]
    list(Looks(model, CPU).turned((GoodParts(photos[:1], recipe, Scope(recipe.image, None)), 0)))
    assert shapes == [(96, 128)]


def test_a_turned_part_is_nearer_to_what_is_remembered_of_turned_photos(photos: list[Path]) -> None:
    away = []
    for turned in ("never", "always"):
        fit = fit_of(photos[:-1], turned, "model.memory=400")
        assert fit.model.familiarity is not None
        fit.leave_out(NONE)
        density = dict(fit.model.familiarity.named_densities())[LOW]
        features, inside = looked_at(fit, photos[-1])[0]
        found = patches_of(features[LOW], inside, 3)
        away.append(float(density(found.t()[None, :, :, None]).mean()))
    assert away[1] < away[0] - 0.3, "logarithms of squared distances"


def test_a_bundle_with_turned_patches_can_do_without_a_photo_and_take_others_in(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    write_sample_parts(parts, "wood", size=96, train=12, good=0, bad=0, seed=0)
    write_sample_parts(tmp_path / "more", "wood", size=96, train=4, good=0, bad=0, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    recipe = load_recipe(TINY, [*SETTINGS, "model.turned_patches=always"])
    train(read_layout(parts), recipe, tmp_path / "b", general=general, quiet=True)
    good = [sample.image for sample in read_layout(parts).train_good]
    left_out = LeaveOut(load_bundle(tmp_path / "b"), "b", good)  # each patch is found in a photo, turned or not
    owners = left_out._banks[LOW].owners
    assert set(owners.tolist()) <= set(range(12)) and len(set(owners.tolist())) > 6
    first = frozenset({int(owners[0])})
    kept = left_out.evidence_without(first).patches[LOW][0]
    assert not bool((torch.cdist(kept, left_out._banks[LOW].patches[owners == int(owners[0])]) == 0).any())

    more = [sample.image for sample in read_layout(tmp_path / "more").train_good]
    renewed, _ = renew(load_bundle(tmp_path / "b"), "b", more)
    assert renewed.evidence is not None and renewed.evidence.remembered == 16
