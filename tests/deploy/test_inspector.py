from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flawmap
from flawmap.bundle import Bundle, build, save_bundle
from flawmap.config import PlaceSettings, load_recipe
from flawmap.data.images import write_image
from flawmap.deploy import runtimes
from flawmap.deploy.inspector import Inspection, Inspector, peak_region
from flawmap.deploy.runtimes import Found
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.threshold import choose_threshold

RECIPE = load_recipe(Path(__file__).parents[1] / "tiny.toml")


def tiny_bundle(threshold: Any = None) -> Bundle:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(RECIPE.model, with_refinement=True).eval()
    return Bundle(model=model, recipe=RECIPE, threshold=threshold, provenance={})


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector(tiny_bundle(), device="cpu")


@pytest.fixture
def part() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def with_threshold(inspector: Inspector, score: float, pixel: float) -> Inspector:
    threshold = dataclasses.replace(choose_threshold([0.1] * 20, [0.1] * 20, 0.1), score=score, pixel=pixel)
    return Inspector(dataclasses.replace(inspector.bundle, threshold=threshold), device="cpu")


def test_map_has_the_size_of_the_image_and_lies_in_0_to_1(inspector: Inspector, part: np.ndarray) -> None:
    found = inspector.inspect(part)
    assert found.map.shape == (90, 130)
    assert found.map.dtype == np.float32
    assert found.map.min() >= 0 and found.map.max() <= 1
    assert found.network_map.shape == (64, 64)
    assert found.object_image.shape == found.general_image.shape == found.input_image.shape == (64, 64, 3)


def test_file_and_array_give_the_same_inspection(inspector: Inspector, part: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "Teil ü 1.png"
    write_image(file, part)
    for image in (file, str(file)):
        found = inspector.inspect(image)
        assert found.score == inspector.inspect(part).score
        assert np.array_equal(found.map, inspector.inspect(part).map)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_the_same_picture_in_another_type_gives_the_same_score(
    inspector: Inspector, part: np.ndarray, dtype: str
) -> None:
    same = part.astype(np.uint16) * 257 if dtype == "uint16" else (part / 255).astype(dtype)
    assert inspector.inspect(same).score == pytest.approx(inspector.inspect(part).score, abs=1e-6)


def test_channels_are_taken_as_blue_green_red(inspector: Inspector) -> None:
    blue = np.zeros((64, 64, 3), dtype=np.uint8)
    blue[..., 0] = 255
    assert inspector.inspect(blue).input_image[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((64, 64), dtype=np.int32),
        np.zeros((3, 64, 64), dtype=np.uint8),
        np.zeros((64, 64, 4), dtype=np.uint8),
        np.zeros((0, 64, 3), dtype=np.uint8),
        np.zeros((64, 64, 3), dtype=np.int64),
        np.zeros((64, 64, 3), dtype=bool),
        np.full((64, 64, 3), 255.0, dtype=np.float32),
        np.full((64, 64, 3), np.nan, dtype=np.float32),
        [[1, 2, 3]],
    ],
    ids=["int32", "channels first", "alpha", "empty", "int64", "bool", "0 to 255", "nan", "list"],
)
def test_an_array_that_is_no_such_image_is_refused_in_one_line(inspector: Inspector, wrong: Any) -> None:
    with pytest.raises(ImageError) as raised:
        inspector.inspect(wrong)
    assert "\n" not in str(raised.value)


def test_without_a_threshold_there_is_a_score_and_no_verdict(inspector: Inspector, part: np.ndarray) -> None:
    found = inspector.inspect(part)
    assert (found.threshold, found.defective, found.regions) == (None, None, [])
    assert 0 <= found.score <= 1


def test_a_part_is_defective_only_above_its_threshold(inspector: Inspector, part: np.ndarray) -> None:
    score = inspector.inspect(part).score
    assert with_threshold(inspector, score, 1.0).inspect(part).defective is False
    assert with_threshold(inspector, score - 1e-6, 1.0).inspect(part).defective is True


def test_regions_are_where_the_map_exceeds_the_pixel_threshold(inspector: Inspector, part: np.ndarray) -> None:
    level = float(np.quantile(inspector.inspect(part).map, 0.8))
    found = with_threshold(inspector, 1.0, level).inspect(part)
    assert found.regions
    assert found.regions[0].peak == pytest.approx(float(found.map.max()))
    for region in found.regions:
        x, y, width, height = region.box
        assert found.map[y : y + height, x : x + width].max() > level
        assert x >= 0 and y >= 0 and x + width <= 130 and y + height <= 90


def test_a_defective_part_below_the_pixel_threshold_has_the_region_around_its_peak(
    inspector: Inspector, part: np.ndarray
) -> None:
    found = with_threshold(inspector, 0.0, 1.0).inspect(part)
    assert found.defective
    assert len(found.regions) == 1
    assert found.regions[0].peak == pytest.approx(float(found.map.max()))


@pytest.mark.parametrize("score", [0.0, 1.0], ids=["defective", "good"])
def test_regions_below_the_smallest_area_are_none_and_the_verdict_stays(
    inspector: Inspector, part: np.ndarray, score: float
) -> None:
    level = float(np.quantile(inspector.inspect(part).map, 0.8))
    usual = with_threshold(inspector, score, level)
    found = usual.inspect(part)
    areas = sorted(region.area for region in found.regions)
    assert usual.smallest == 4 and len(areas) > 1 and areas[0] >= 4
    for smallest in (areas[0], areas[0] + 1, areas[-1], areas[-1] + 1):
        recipe = RECIPE.model_copy(update={"verdict": PlaceSettings(smallest=float(smallest))})
        ones = [Inspector(dataclasses.replace(usual.bundle, recipe=recipe), device="cpu")]
        ones.append(Inspector(usual.bundle, device="cpu", smallest=smallest))
        for one in ones:
            judged = one.inspect(part)
            assert (judged.score, judged.defective) == (found.score, found.defective)
            assert judged.regions == [region for region in found.regions if region.area >= smallest]


def test_the_region_around_a_peak_ends_at_half_its_height() -> None:
    hill = np.zeros((40, 50), dtype=np.float32)
    hill[10:20, 30:36] = 0.3
    hill[14:16, 32:34] = 0.4
    hill[30:35, 5:10] = 0.15
    (region,) = peak_region(hill)
    assert region.box == (30, 10, 6, 10)


def test_many_images_come_in_order_whatever_the_batch(inspector: Inspector) -> None:
    random = np.random.default_rng(5)
    parts = [random.random((int(side), 70, 3), dtype=np.float32) for side in (64, 80, 96, 64, 100)]
    one_by_one = [inspector.inspect(part).score for part in parts]
    for batch in (1, 2, 8):
        found = list(inspector.inspect_many(parts, batch))
        assert all(isinstance(each, Inspection) for each in found)
        assert [each.score for each in found] == pytest.approx(one_by_one, abs=1e-5)
        assert [each.map.shape[0] for each in found] == [64, 80, 96, 64, 100]


def test_many_images_are_read_only_as_they_are_needed(inspector: Inspector, part: np.ndarray) -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for number in range(1000):
            taken.append(number)
            yield part

    found = inspector.inspect_many(camera(), batch=2)
    next(found)
    assert len(taken) == 2


def test_a_broken_file_among_many_yields_its_error_and_the_rest_go_on(
    inspector: Inspector, part: np.ndarray, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png", part)
    (tmp_path / "b.png").write_bytes(b"")
    write_image(tmp_path / "c.png", part)
    found = list(inspector.inspect_many(sorted(tmp_path.iterdir()), batch=3))
    assert [type(each) for each in found] == [Inspection, ImageError, Inspection]
    assert "b.png" in str(found[1])


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="abacus"):
        Inspector(tiny_bundle(), device="abacus")


def test_load_opens_a_saved_bundle(inspector: Inspector, part: np.ndarray, tmp_path: Path) -> None:
    save_bundle(inspector.bundle, tmp_path / "part.bundle")
    found = flawmap.load(tmp_path / "part.bundle").inspect(part)
    assert found.score == pytest.approx(inspector.inspect(part).score, abs=0.02)  # stored in half precision


def test_whatever_computes_the_network_is_judged_alike(inspector: Inspector, part: np.ndarray) -> None:
    class Replay:
        name, usual_batch = "replay", 3

        def __call__(self, images: np.ndarray) -> Found:
            assert images.dtype == np.float32 and images.shape[1:] == (3, 64, 64)
            return inspector.runtime(images)

    other = Inspector(inspector.bundle, runtime=Replay())
    assert other.usual_batch == 3
    for field in dataclasses.fields(Inspection):
        mine, its = getattr(other.inspect(part), field.name), getattr(inspector.inspect(part), field.name)
        assert np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its


def test_an_unknown_runtime_is_refused_before_the_bundle_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        flawmap.load(tmp_path / "none.bundle", runtime="abacus")


def test_bfloat16_finds_nearly_the_same_and_its_own_way(
    inspector: Inspector, part: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "has_fast_bfloat16", lambda device: True)  # emulated it computes the same
    lower = Inspector(inspector.bundle, "cpu", precision="bfloat16").inspect(part)
    full = inspector.inspect(part)
    assert lower.map.dtype == lower.general_image.dtype == np.float32
    assert not np.array_equal(lower.map, full.map)
    # Untrained weights magnify a code that rounding changed: most of the map is as it was, not all of it.
    assert float(np.median(np.abs(lower.map - full.map))) < 0.05
    assert abs(lower.score - full.score) < 0.05
    assert np.array_equal(inspector.inspect(part).map, full.map), "full precision is as it was"


def test_bfloat16_is_for_processors_that_multiply_it_and_not_for_onnx_runtime(
    inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(inspector.bundle, tmp_path / "b")
    monkeypatch.setattr(runtimes, "has_fast_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="does not multiply bfloat16"):
        flawmap.load(tmp_path / "b", "cpu", precision="bfloat16")
    with pytest.raises(ConfigError, match="onnx computes no bfloat16; use float32, or one of: auto, torch, openvino"):
        flawmap.load(tmp_path / "b", "cpu", runtime="onnx", precision="bfloat16")
    with pytest.raises(ConfigError, match="no precision half; there are: float32, bfloat16"):
        flawmap.load(tmp_path / "b", "cpu", precision="half")
