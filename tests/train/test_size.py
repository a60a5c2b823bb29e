"""The working size: from the photos, within a budget, by what drawn marks say, and said in a line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flawmap.bundle import build, load_bundle
from flawmap.config import (
    ImageSettings,
    ModelSettings,
    Recipe,
    dump_recipe,
    load_recipe,
    recipe_from_text,
    training_recipes,
)
from flawmap.data.images import to_uint8, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.data.surfaces import draw_good, write_sample_parts
from flawmap.errors import ConfigError
from flawmap.model.discrete import DiscreteModel
from flawmap.train import size, sources
from flawmap.train.run import train
from flawmap.train.size import MARKS, choose_size, draw_marks, gflop, size_line
from flawmap.train.sources import photo_size, sized

TINY = [
    "model.codes=32", "model.code_length=8", "model.discrete_width=16", "model.discrete_hidden=8",
    "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4", "detect.steps=2",
    "detect.batch=2", "detect.crop=64", "refine.steps=0", "threshold.held_out_min=2", "run.threads=1",
    "run.device=cpu",
]  # fmt: skip


def plain(folder: Path, height: int, width: int, count: int = 3) -> list[Path]:
    """Photos of one grey."""
    for number in range(count):
        write_image(folder / f"{number}.png", np.full((height, width, 3), 90, np.uint8))
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def metal(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine good parts of 192x192."""
    folder, rng = tmp_path_factory.mktemp("metal"), np.random.default_rng(0)
    for number in range(9):
        write_image(folder / f"{number}.png", to_uint8(draw_good("brushed-metal", 192, rng)))
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize(
    ("height", "width", "settings", "expected"),
    [
        (200, 200, ["image.size=auto"], (256, 256, 1)),
        (300, 300, ["image.size=auto"], (304, 304, 1)),
        (1000, 700, ["image.size=auto", "image.aspect=photos"], (736, 512, 2)),
        (700, 1000, ["image.size=640", "image.aspect=photos"], (640, 928, 2)),
        (1000, 1000, ["image.size=auto", "image.height=128"], (128, 256, 1)),
        (1000, 1000, ["image.size=auto", "image.policy=tile"], (256, 256, 1)),
        (1000, 1000, [], (256, 256, 1)),
    ],
)
def test_the_size_follows_the_photos_unless_it_is_stated(
    height: int, width: int, settings: list[str], expected: tuple[int, int, int], tmp_path: Path
) -> None:
    recipe = sized(load_recipe(None, settings), plain(tmp_path, height, width))
    assert (recipe.image.height, recipe.image.width, recipe.model.reduction) == expected
    assert sized(recipe, plain(tmp_path, 64, 64)).image == recipe.image, "settled once and for all"


@pytest.mark.parametrize("name", training_recipes())
@pytest.mark.parametrize("stated", [[], ["image.height=320"]])
def test_a_recipe_that_was_written_out_follows_the_photos_as_before(
    name: str, stated: list[str], tmp_path: Path
) -> None:
    recipe = load_recipe(name, stated)
    written = recipe_from_text(dump_recipe(recipe))
    assert written == recipe
    photos = plain(tmp_path, 1000, 700)
    settled = sized(recipe, photos)
    assert sized(written, photos) == settled
    again = recipe_from_text(dump_recipe(settled))
    assert sized(again, plain(tmp_path, 64, 64)) == settled == again


@pytest.mark.parametrize("name", ["fast", "accurate"])
def test_what_the_line_proposes_can_be_set(name: str, tmp_path: Path) -> None:
    recipe = sized(load_recipe(name), plain(tmp_path, 3000, 2000))
    proposed = re.findall(r"--set (\S+)", size_line(load_recipe(name), recipe, (3000, 2000)))
    assert proposed[0] == "image.policy=tile" and len(proposed) == 2
    tiles = load_recipe(name, [proposed[0]])
    assert (tiles.image.policy, tiles.image.aspect) == ("tile", "fixed")
    more = sized(load_recipe(name, [proposed[1]]), plain(tmp_path, 3000, 2000))
    assert more.image.width == 2 * recipe.image.width


def test_at_most_a_quarter_of_photos_of_several_sizes_is_enlarged(tmp_path: Path) -> None:
    paths = []
    for number, side in enumerate([280, 288, 400, 410, 420, 430, 440, 450]):
        (tmp_path / str(number)).mkdir()
        paths += plain(tmp_path / str(number), side, side)[:1]
    recipe = load_recipe(None, ["image.size=auto"])
    assert sized(recipe, paths).image.height == 288
    assert sized(recipe, paths[1:]).image.height == 400


def test_gflop_are_those_that_pytorch_counts_of_a_model_with_full_memory_banks() -> None:
    settings = ['model.familiarity=["imagenet", "imagenet_high"]', "model.memory=50", "model.components=16"]
    recipe = load_recipe(None, [*TINY, *settings, "image.height=64", "image.width=96"])
    model = build(recipe.model, with_refinement=False).eval()
    assert model.familiarity is not None
    for _, density in model.familiarity.named_densities():
        density.remember(torch.rand(50, len(density.mean)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 64, 96))
    assert round(1e9 * gflop(recipe)) == counter.get_total_flops()


def test_counting_takes_nothing_from_the_random_stream() -> None:
    before = torch.get_rng_state()
    gflop(load_recipe(None, [*TINY, "image.height=64", "image.width=64"]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("budget", "side"), [(0.0, 512), (66.0, 512), (32.0, 352), (17.0, 256)])
def test_a_budget_bounds_the_size(budget: float, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cost of 0.25 GFLOP for 1000 pixels and without a reduction."""
    counted: list[int] = []

    def cost(recipe: Recipe) -> float:
        counted.append(recipe.image.height)
        return recipe.image.height * recipe.image.width / 4000

    monkeypatch.setattr(sources, "gflop", cost)
    settings = ["image.size=auto", "model.reduction=1", f"image.budget_gflop={budget}"]
    assert sized(load_recipe(None, settings), plain(tmp_path, 900, 900)).image.height == side
    assert counted == sorted(set(counted), reverse=True)


def test_a_larger_size_may_cost_less_where_detection_sees_half_of_it(tmp_path: Path) -> None:
    """448 pixels are reduced to 224 for the discrete model, and 432 are not."""
    recipe = load_recipe(None, [*TINY, "image.size=auto"])
    paths = plain(tmp_path, 900, 900)
    low, high = (
        gflop(sized(recipe.model_copy(update={"image": ImageSettings(size=side)}), paths)) for side in (432, 448)
    )
    assert high < low
    within = recipe.model_copy(update={"image": ImageSettings(size="auto", budget_gflop=1.01 * high)})
    assert sized(within, paths).image.height == 448


def test_a_budget_that_buys_no_size_is_refused_in_one_line(tmp_path: Path) -> None:
    recipe = load_recipe(None, [*TINY, "image.size=auto", "image.budget_gflop=0.001"])
    with pytest.raises(ConfigError, match=r"budget_gflop = 0.001 is too little: 256x256 pixels take \d") as raised:
        sized(recipe, plain(tmp_path, 300, 300))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("height", [200, 300])
def test_each_mark_is_drawn_in_a_quarter_of_its_own_and_nothing_else_changes(height: int) -> None:
    image = np.full((height, 400, 3), 0.5, np.float32)
    for marks in MARKS:
        found = draw_marks(image, marks, Scope(ImageSettings()), np.random.default_rng(3))
        assert (image == 0.5).all()
        places = [place for place in found.places if place is not None]
        assert {(place.x > 0.5, place.y > 0.5) for place in places} == {(a, b) for a in (0, 1) for b in (0, 1)}
        rows, columns = np.mgrid[:height, :400] + 0.5
        near = np.zeros((height, 400), np.bool_)
        for place, (_, _, contrast) in zip(places, marks, strict=True):
            here = np.abs(rows - place.y * height) <= place.reach[1] * height + 2
            here &= np.abs(columns - place.x * 400) <= place.reach[0] * 400 + 2
            assert np.abs(found.image[here] - 0.5).max() == pytest.approx(contrast, rel=0.3)
            near |= here
        assert (found.image[~near] == 0.5).all()


def test_a_mark_without_room_in_what_counts_is_left_out() -> None:
    image = np.full((200, 200, 3), 0.5, np.float32)
    half = Scope(ImageSettings(include=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)))
    found = draw_marks(image, MARKS[0], half, np.random.default_rng(0))
    assert sum(place is None for place in found.places) == 2
    assert (found.image[:, 100:] == 0.5).all()


def candidates(*sides: int) -> list[ImageSettings]:
    return [ImageSettings(height=side, width=side) for side in sides]


def test_the_smallest_size_about_as_good_as_the_best_is_taken(
    metal: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {64: 0.70, 96: 0.895, 128: 0.9, 160: 0.904}
    monkeypatch.setattr(size._Look, "auroc", lambda look: told[look.settings.height])
    found = choose_size(metal, candidates(*told), Scope(ImageSettings()), model=ModelSettings())
    assert (found.image.height, found.aurocs) == (96, told)


def test_marks_that_a_small_size_loses_ask_for_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spots of 3 pixels, of which 1/6 of the size leaves nothing but noise."""
    rng = np.random.default_rng(0)
    for number in range(12):
        grey = 120 + rng.normal(0, 8, (192, 192, 1))
        write_image(tmp_path / f"{number:02}.png", np.repeat(grey.clip(0, 255).astype(np.uint8), 3, 2))
    paths, model = sorted(tmp_path.iterdir()), ModelSettings(components=64)
    monkeypatch.setattr(size, "MARKS", ((("spot", 1 / 64, 0.25),) * 4,))
    found = choose_size(paths, candidates(32, 192), Scope(ImageSettings()), model=model)
    assert found.image.height == 192
    assert found.aurocs[192] > 0.9 > 0.8 > found.aurocs[32]
    assert found == choose_size(paths, candidates(32, 192), Scope(ImageSettings()), model=model)


def test_large_marks_are_told_at_any_size(metal: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "MARKS", ((("spot", 1 / 6, 0.5),) * 4,))
    part = Scope(ImageSettings(include=(((0.0, 0.0), (1.0, 0.0), (1.0, 0.9), (0.0, 0.9)),)))
    found = choose_size(metal, candidates(96, 128), part, model=ModelSettings(components=16, neighbourhood=3))
    assert found.image.height == 96
    assert found.aurocs[96] > 0.95


def test_few_photos_tell_no_size(metal: list[Path]) -> None:
    found = choose_size(metal[:5], candidates(64, 96), Scope(ImageSettings()), model=ModelSettings())
    assert (found.image.height, found.aurocs) == (96, {})


def test_a_measured_size_is_one_of_few_between_256_and_the_photos_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def choose(paths: object, tried: list[ImageSettings], *_: object, **__: object) -> size.SizeChoice:
        asked.extend(min(each.height, each.width) for each in tried)
        return size.SizeChoice(tried[1], {256: 0.7, 320: 0.8})

    monkeypatch.setattr(sources, "choose_size", choose)
    said: list[str] = []
    recipe = load_recipe(None, ["image.size=measured", "image.aspect=photos"])
    found = sized(recipe, plain(tmp_path, 400, 420), said.append)
    assert asked == [256, 320, 384, 400]
    assert (found.image.height, found.image.width, found.image.aspect) == (320, 336, "fixed")
    assert said == ["spots and lines drawn into photos are told with a mean AUROC of 0.700 at 256, 0.800 at 320 pixels"]


def line(settings: list[str], photo: tuple[int, int], side: int, familiarity: str = '["imagenet"]') -> str:
    asked = load_recipe(None, [f"model.familiarity={familiarity}", "refine.steps=0", *settings])
    image = asked.image.model_copy(update={"height": side, "width": side})
    return size_line(asked, asked.model_copy(update={"image": image}), photo)


def test_the_line_says_from_which_size_to_which() -> None:
    assert line(["image.size=auto"], (1024, 1000), 512) == (
        "photos of 1000×1024 pixels are inspected at 512×512 (image.size = auto)"
    )
    assert line(["image.size=auto", "image.budget_gflop=9"], (300, 300), 256).endswith(
        "at 256×256 (image.size = auto, image.budget_gflop = 9)"
    )
    assert line(["image.height=256"], (300, 300), 256).endswith("(image.height = 256)")
    assert line(["image.policy=tile"], (3000, 4000), 256) == (
        "photos of 4000×3000 pixels are inspected in tiles of 256×256 (image.policy = tile)"
    )


def test_for_photos_much_larger_it_proposes_tiles_or_a_larger_size() -> None:
    proposal = "; small defects may be lost: --set image.policy=tile sees every pixel, "
    assert line(["image.size=auto"], (1100, 1300), 512).endswith(f"{proposal}--set image.size=1024 more of them")
    assert line(["image.size=auto"], (1025, 1300), 512).endswith("--set image.size=1024 more of them")
    assert line(["image.size=auto"], (600, 1300), 256).endswith("--set image.size=512 more of them")
    larger = f"{proposal}--set image.height=512 --set image.width=512 more of them"
    assert line(["image.height=256"], (600, 1300), 256).endswith(larger)
    assert line([], (600, 1300), 256, familiarity="[]").endswith(larger)


def test_a_training_says_it_and_the_bundle_keeps_it(tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", size=96, train=8, good=0, bad=0, seed=0)
    torch.manual_seed(0)
    recipe = load_recipe(None, [*TINY, "image.height=64", "image.width=48"])
    said: list[str] = []
    general = DiscreteModel(32, 8, 16, 8)
    train(read_layout(tmp_path / "parts"), recipe, tmp_path / "b", general=general, quiet=True, say=said.append)
    assert said == ["photos of 96×96 pixels are inspected at 48×64 (image.height = 64, image.width = 48)"]
    kept = load_bundle(tmp_path / "b").provenance
    assert (kept["photo_size"], kept["inspected_at"]) == ([96, 96], [64, 48])


def test_a_resumed_training_keeps_the_size_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", size=96, train=8, good=0, bad=0, seed=0)
    measured: list[int] = []

    def choose(paths: object, tried: list[ImageSettings], *_: object, **__: object) -> size.SizeChoice:
        measured.append(len(tried))
        return size.SizeChoice(tried[len(measured) - 1], {})

    monkeypatch.setattr(sources, "choose_size", choose)
    monkeypatch.setattr(sources, "SMALLEST", 64)
    monkeypatch.setattr(sources, "TRIED", (80,))
    recipe = load_recipe(None, [*TINY, "image.size=measured", "run.checkpoint_seconds=0"])
    torch.manual_seed(0)
    general, listing = DiscreteModel(32, 8, 16, 8), read_layout(tmp_path / "parts")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("flawmap.train.run.round_weights", stopped)
        train(listing, recipe, tmp_path / "b", general=general, quiet=True)
    bundle = train(listing, recipe, tmp_path / "b", general=general, quiet=True, resume=True)
    assert measured == [3]
    assert (bundle.recipe.image.height, bundle.recipe.image.size) == (64, "measured")


def test_the_size_of_photos_is_their_median(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(40, 90), (50, 70), (60, 80)]):
        write_image(tmp_path / f"{number}.png", np.zeros((height, width, 3), np.uint8))
    assert photo_size(sorted(tmp_path.iterdir())) == (50, 80)
