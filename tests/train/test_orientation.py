"""Parts that lie at varying angles are recognised, and what the recipe does about it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.bundle import load_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.dataset import rotated
from flawmap.data.images import to_uint8, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import draw_good, write_sample_parts
from flawmap.deploy.batch import page_provenance
from flawmap.measure.orientation import FEWEST, LABEL, ORIENTATION, Orientation, orientation_of
from flawmap.model.discrete import DiscreteModel
from flawmap.train import run
from flawmap.train.orientation import (
    TURNS,
    agreement,
    asks_for_orientation,
    fitting_turns,
    from_images,
    recognise,
    settled,
    told_by,
)
from flawmap.train.run import train

TINY = Path(__file__).parents[1] / "tiny.toml"
SIDE = 128
VARYING = Orientation(24, 0.6, 0.1, 0.5, 0.1)
ALIKE = Orientation(24, 0.0, 0.6, 0.6, 0.1)
BANKS = ["refine.steps=0", "model.familiarity=['imagenet', 'imagenet_high']", "model.memory=48", "model.components=16",
         "model.norm=batch", "threshold.calibration=cross-fitted", "image.height=96", "image.width=96"]  # fmt: skip


def bracket(angle: float, rng: np.random.Generator) -> np.ndarray:
    """A part (SIDE, SIDE, 3) with an arm and a hole, turned by `angle` in degrees, moved a little, on a belt."""
    line = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = np.meshgrid(line - rng.uniform(-8, 8), line - rng.uniform(-8, 8))
    turn = math.radians(angle)
    u, v = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    body = (abs(u) < 44) & (abs(v) < 10)
    arm = (abs(u - 32) < 8) & (v > 0) & (v < 34)
    part = (body | arm) & (np.hypot(u + 28, v) > 6)
    grey = np.where(part, 0.7, 0.25) + 0.02 * rng.standard_normal((SIDE, SIDE))
    return np.repeat(grey[..., None], 3, 2).clip(0, 1).astype(np.float32)


def brackets(angles: list[float]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [bracket(angle, rng) for angle in angles]


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    found = rotated(pixels, torch.tensor([math.radians(degrees)]), "reflection")
    return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())


def drawn(surface: str, count: int = 10) -> list[np.ndarray]:
    return [draw_good(surface, SIDE, np.random.default_rng([1, number])) for number in range(count)]


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brackets at any angle, in the layout of MVTec AD."""
    folder = tmp_path_factory.mktemp("lying")
    for number, image in enumerate(brackets([37.0 * number for number in range(12)])):
        (folder / "train" / "good").mkdir(parents=True, exist_ok=True)
        write_image(folder / "train" / "good" / f"{number:02}.png", to_uint8(image))
    return folder


ANGLES = {
    "any": [37.0 * number for number in range(10)],
    "upside down": [180.0 * (number % 2) for number in range(10)],
    "quarters": [90.0 * (number % 4) for number in range(10)],
}


@pytest.mark.parametrize("how", ANGLES)
def test_parts_at_varying_angles_are_recognised_though_they_are_moved(how: str) -> None:
    found = from_images(brackets(ANGLES[how]))
    assert found.varies and found.words.startswith("parts lie at varying angles"), found
    assert 0.4 < found.apart < 0.9


@pytest.mark.parametrize("angle", [0.0, 50.0])
def test_parts_that_lie_alike_are_not_wherever_they_are(angle: float) -> None:
    found = from_images(brackets([angle] * 10))
    assert found.stands_out and not found.varies and found.apart == 0


@pytest.mark.parametrize("surface", ["brushed-metal", "fabric", "wood"])
def test_a_texture_with_a_grain_is_recognised_as_turned_only_if_it_is(surface: str) -> None:
    images = drawn(surface)
    assert not from_images(images).varies
    assert from_images([turned(image, 37.0 * number) for number, image in enumerate(images)]).varies


def test_a_texture_without_a_grain_shows_no_angle() -> None:
    found = from_images(drawn("ground-tile"))
    assert not found.stands_out and not found.varies
    assert found.words.startswith("parts show no angle")


def table_of(turns: list[int], noise: float) -> torch.Tensor:
    """The agreement of photos that fit where each is turned by its own of `turns`."""
    count, generator = len(turns), torch.Generator().manual_seed(0)
    table = noise * torch.rand(count, count, TURNS, generator=generator)
    for first in range(count):
        for second in range(first):
            table[first, second, (turns[second] - turns[first]) % TURNS] += 0.5
            table[second, first] = table[first, second, (-torch.arange(TURNS)) % TURNS]
    return table


def test_turns_that_fit_are_found_up_to_a_common_one() -> None:
    turns = [0, 5, 3, 11, 8, 3, 0, 7, 2, 10]
    found = fitting_turns(table_of(turns, 0.2))
    assert len({(one - other) % TURNS for one, other in zip(found.tolist(), turns, strict=True)}) == 1


def test_noise_alone_is_no_angle() -> None:
    assert not told_by(0.3 * table_of([0] * 10, 1.0) + 0.3).varies
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(10, 10, TURNS, generator=generator)
    reverse = noise[:, :, (-torch.arange(TURNS)) % TURNS].transpose(0, 1)
    assert not told_by((noise + reverse) / 2).varies


def test_agreement_is_the_same_from_either_photo_and_one_with_itself() -> None:
    features = torch.rand(2, TURNS, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    features = torch.cat([features, features[:1].roll(3, 1)])  # the first once more, three steps ahead
    table = agreement(features)
    backwards = (-torch.arange(TURNS)) % TURNS
    torch.testing.assert_close(table, table[:, :, backwards].transpose(0, 1))
    assert int(table[2, 0].argmax()) == (TURNS - 3) and float(table[2, 0].max()) == pytest.approx(1, abs=1e-4)
    assert float(table[0, 1].max()) < 0.5


def test_too_few_photos_tell_nothing_and_are_not_read() -> None:
    found = recognise([Path("missing.png")] * (FEWEST - 1))
    assert not found.varies and found.words == "7 good photos are too few to tell whether parts lie at varying angles"


def test_the_note_reads_back_and_what_is_no_note_is_none() -> None:
    assert orientation_of({ORIENTATION: VARYING.to_json()}) == VARYING
    for note in (None, 3, {"photos": 3, "other": 1}, {"photos": "many"}):
        assert orientation_of({ORIENTATION: note}) is None


def asked(*settings: str) -> Recipe:
    return load_recipe(TINY, [*BANKS, "model.turned_patches=auto", "anomalies.turned=auto", "anomalies.rotate=0",
                              "detect.replay_turns=none", *settings])  # fmt: skip


def test_where_parts_vary_patches_and_training_defects_are_turned() -> None:
    recipe = settled(asked(), VARYING)
    assert recipe.model.turned_patches == "always"
    defects = recipe.anomalies
    assert (defects.rotate, defects.rotate_degrees, defects.rotate_border) == (0.5, 180, "mirror")
    assert recipe.detect.replay_turns == "quarter"
    assert not asks_for_orientation(recipe), "it is settled"


def test_where_they_lie_alike_the_recipe_is_as_if_it_had_not_asked() -> None:
    never = load_recipe(TINY, [*BANKS, "anomalies.rotate=0", "detect.replay_turns=none"])
    assert settled(asked(), ALIKE) == never


def test_rotations_set_by_hand_stay() -> None:
    recipe = settled(asked("anomalies.rotate=0.4", "detect.replay_turns=mirror"), VARYING)
    assert (recipe.anomalies.rotate, recipe.anomalies.rotate_degrees) == (0.4, 90)
    assert recipe.detect.replay_turns == "mirror"
    assert settled(asked("anomalies.turned=given"), VARYING).anomalies.rotate == 0
    assert settled(asked("model.turned_patches=never"), VARYING).model.turned_patches == "never"


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        ([], True),
        (["anomalies.turned=given"], True),
        (["anomalies.turned=given", "model.turned_patches=always"], False),
        (["anomalies.turned=given", "model.memory=0"], False),
        (["anomalies.turned=given", "model.familiarity=['encoder']"], False),
    ],
)
def test_photos_are_looked_at_only_where_it_counts(settings: list[str], asks: bool) -> None:
    assert asks_for_orientation(asked(*settings)) is asks


def trained(parts: Path, out: Path, recipe: Recipe, **more: object) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    train(read_layout(parts), recipe, out, general=general, quiet=True, **more)  # type: ignore[arg-type]
    return out


def test_a_training_says_it_and_bundle_and_report_keep_it(lying: Path, tmp_path: Path) -> None:
    said: list[str] = []
    bundle = load_bundle(trained(lying, tmp_path / "b", asked(), say=said.append))
    kept = orientation_of(bundle.provenance)
    assert kept is not None and kept.varies and kept.words == said[1]
    assert page_provenance(bundle)[LABEL] == kept.words
    assert bundle.recipe.model.turned_patches == "always" and bundle.recipe.anomalies.rotate == 0.5


def test_a_recipe_that_does_not_ask_is_not_told(lying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "recognise", None)
    bundle = load_bundle(trained(lying, tmp_path / "b", load_recipe(TINY)))
    assert bundle.provenance[ORIENTATION] is None and LABEL not in page_provenance(bundle)


def test_parts_that_lie_alike_train_to_the_same_bits_as_without(tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", size=96, train=12, good=0, bad=0, seed=0)
    never = load_recipe(TINY, [*BANKS, "anomalies.rotate=0", "detect.replay_turns=none"])
    found = [trained(tmp_path / "parts", tmp_path / str(number), each) for number, each in enumerate((asked(), never))]
    for name in ("weights.safetensors", "evidence.safetensors", "photos.safetensors"):
        assert (found[0] / name).read_bytes() == (found[1] / name).read_bytes(), name
    scores = [load_bundle(path).provenance["held_out_scores"] for path in found]
    assert scores[0] == scores[1]


def test_a_resumed_training_keeps_what_was_told(lying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    recipe = asked("run.checkpoint_seconds=0")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "round_weights", stopped)
        trained(lying, tmp_path / "b", recipe)
    monkeypatch.setattr(run, "recognise", None)  # another machine might round otherwise, and tell otherwise
    bundle = load_bundle(trained(lying, tmp_path / "b", recipe, resume=True))
    assert bundle.recipe.model.turned_patches == "always"
