"""The paper's ablations, each one setting: what is left out is left out, and the rest stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flawmap.bundle import build, load_bundle
from flawmap.config import load_recipe
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import write_sample_parts
from flawmap.errors import ConfigError
from flawmap.model.anomalies import alter
from flawmap.model.discrete import DiscreteModel
from flawmap.model.dsr import DSR
from flawmap.model.painting import Ways, paint
from flawmap.train.detect import with_defects
from flawmap.train.run import start_weights, train

TINY = Path(__file__).parents[1] / "tiny.toml"


def model_of(*settings: str) -> DSR:
    recipe = load_recipe(TINY, list(settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(recipe.model, with_refinement=recipe.refine.steps > 0).eval().requires_grad_(False)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_without_restriction_codes_are_drawn_as_they_are() -> None:
    whole, without = model_of(), model_of("model.restriction=none")
    without.load_state_dict(whole.state_dict())
    codes = whole.encode(images())
    result = without(images())
    assert torch.equal(result.object_image, without.draw_object(codes.coarse_codes, codes.fine_codes))
    assert not torch.allclose(result.object_image, whole(images()).object_image)
    assert torch.equal(result.general_image, whole(images()).general_image)


def test_without_codes_features_stay_continuous() -> None:
    model = model_of("model.quantize=false")
    found = model.encode(images())
    assert torch.equal(found.coarse_codes, found.coarse_features)
    assert torch.equal(found.fine_codes, found.fine_features)
    restricted = model.restrict(found.coarse_codes, found.fine_codes)
    assert torch.equal(restricted.fine_codes, restricted.fine_features)
    result = model(images())
    assert torch.equal(result.general_image, model.discrete.decode(found.coarse_codes, found.fine_codes))
    assert torch.isfinite(result.map).all()


@pytest.mark.parametrize("quantize", [True, False])
def test_only_altered_cells_are_codes_where_features_are_continuous(quantize: bool) -> None:
    model = model_of(f"model.quantize={str(quantize).lower()}")
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[:, 16:32, 16:32] = True
    generator = torch.Generator().manual_seed(0)
    altered = alter(model.discrete, images(), mask, generator, both_grids=1.0, quantize=quantize)

    def are_codes(cells: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        flat = cells.permute(0, 2, 3, 1)
        return (flat[..., None, :] == vectors).all(-1).any(-1)

    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[:, 2:4, 2:4] = True
    coded = are_codes(altered.coarse_codes, model.discrete.coarse_codebook.vectors)
    assert coded[inside].all()
    assert bool(coded[~inside].all()) is quantize
    assert bool(are_codes(altered.clean_coarse, model.discrete.coarse_codebook.vectors).all()) is quantize


@pytest.mark.parametrize(("grids", "changed"), [("coarse", (True, False)), ("fine", (False, True))])
def test_one_grid_alone_is_altered(grids: str, changed: tuple[bool, bool]) -> None:
    discrete = model_of().discrete
    mask = torch.ones(8, 64, 64, dtype=torch.bool)
    found = alter(discrete, images(8), mask, torch.Generator().manual_seed(0), grids=grids)
    for clean, altered, wanted in (
        (found.clean_coarse, found.coarse_codes, changed[0]),
        (found.clean_fine, found.fine_codes, changed[1]),
    ):
        different = (clean != altered).flatten(1).any(1)
        assert bool(different.all() if wanted else different.any()) is wanted


def test_a_painted_defect_comes_of_one_grid_alone() -> None:
    """With the decoder blind to fine codes, defects of the fine grid cannot be seen."""
    discrete = model_of().discrete
    length = discrete.fine_codebook.vectors.shape[1]
    discrete.decoder.conv.weight[:, length:] = 0
    masks, decoys = torch.ones(6, 64, 64), torch.zeros(6, 64, 64, dtype=torch.bool)

    def changed(grids: str) -> float:
        ways = Ways(shift=0.0, blend=0.0, decoy=0.0, grids=grids)
        painted = paint(discrete, images(6), masks, decoys, torch.Generator().manual_seed(0), ways=ways)
        return float((painted.image - images(6)).abs().max())

    assert changed("fine") < 1e-6
    assert changed("coarse") > 1e-3


def test_compared_with_the_image_the_general_drawing_does_not_matter() -> None:
    model = model_of("model.compared_with=image")
    first = model(images())
    model.discrete.decoder.up2.bias += 0.3
    second = model(images())
    assert not torch.allclose(first.general_image, second.general_image)
    assert torch.equal(first.map, second.map)
    assert not torch.allclose(first.map, model_of()(images()).map)


@pytest.mark.parametrize("place", ["codes", "image"])
@pytest.mark.parametrize(
    "setting",
    [
        "model.restriction=none", "model.decoder=frozen", "model.compared_with=image", "model.quantize=false",
        "anomalies.grids=coarse", "anomalies.grids=fine", "refine.steps=0", "model.norm=batch",
    ],
)  # fmt: skip
def test_every_ablation_trains_and_is_loaded_as_it_was(setting: str, place: str, tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", 64, 5, 1, 1, 0)
    recipe = load_recipe(TINY, [setting, f"anomalies.place={place}"])
    sizes = recipe.model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    bundle = train(read_layout(tmp_path / "parts"), recipe, tmp_path / "part.bundle", general=general, quiet=True)
    loaded = load_bundle(tmp_path / "part.bundle")
    with torch.inference_mode():
        assert torch.allclose(bundle.model(images()).map, loaded.model(images()).map, atol=2e-3)
    frozen = all(
        torch.equal(own, other.half().float())
        for own, other in zip(loaded.model.object_decoder.parameters(), general.decoder.parameters(), strict=True)
    )
    assert frozen is (setting == "model.decoder=frozen")


def test_a_frozen_decoder_fits_a_prior_of_the_general_one() -> None:
    from flawmap.bundle import load_prior

    recipe = load_recipe("fast", ["model.decoder=frozen"])
    model = build(recipe.model, with_refinement=False)
    start_weights(model, recipe.model, None)
    prior = load_prior("lean").model
    own, general = model.object_decoder.state_dict(), prior.discrete.decoder.state_dict()
    assert all(torch.equal(own[name], general[name]) for name in general)
    assert torch.equal(
        model.fine_restriction.state_dict()[first := next(iter(model.fine_restriction.state_dict()))],
        prior.fine_restriction.state_dict()[first],
    )
    other = load_recipe("fast", ["model.decoder=paper"])
    with pytest.raises(ConfigError, match=r"model\.decoder"):
        start_weights(build(other.model, with_refinement=False), other.model, None)


def test_image_level_defects_are_smudges_in_which_codes_have_no_part() -> None:
    model, photos = model_of(), images(6)
    settings = load_recipe(TINY, ["anomalies.place=smudges", "anomalies.opacity_min=1"]).anomalies
    generator = torch.Generator().manual_seed(0)
    found = with_defects(model, photos, settings.model_copy(update={"empty": 0.0}), generator, torch.device("cpu"))
    seen, clean = model.encode(found.image), model.encode(photos)
    assert torch.equal(found.fine_codes, seen.fine_codes) and torch.equal(found.clean_fine, clean.fine_codes)
    assert torch.equal(found.coarse_codes, seen.coarse_codes) and torch.equal(found.clean_coarse, clean.coarse_codes)
    assert found.mask.any() and not found.unsure.any()
    outside = ~found.mask.unsqueeze(1).expand_as(photos)
    assert torch.equal(found.image[outside], photos[outside])
    for image, mask in zip(found.image, found.mask, strict=True):
        assert not mask.any() or len(image[:, mask].unique(dim=1).T) == 1, "one colour, as opaque as it may be"
