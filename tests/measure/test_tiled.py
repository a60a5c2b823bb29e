"""The blended map and score of an image that went through a network tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flawmap.config import ImageSettings
from flawmap.data.scope import Scope
from flawmap.measure.found import Found
from flawmap.measure.tiled import PREVIEW, Blended, inspect_tiles, reduced_map
from flawmap.model.dsr import AUTHORS, ScoreRule, image_score

SIDE = 96


def settings(**changes: Any) -> ImageSettings:
    return ImageSettings(**{"policy": "tile", "height": SIDE, "width": SIDE, **changes})


def blended(network: Any, image: np.ndarray, batch: int = 3, rule: ScoreRule = AUTHORS, **changes: Any) -> Blended:
    chosen = settings(**changes)
    return inspect_tiles(network, image, chosen, Scope(chosen), rule=rule, batch=batch)


def found_of(maps: np.ndarray, first: np.ndarray, drawing: np.ndarray, other: np.ndarray) -> Found:
    """Maps (B, h, w) and drawings (B, 3, h, w) as what a network finds."""
    scores = image_score(torch.from_numpy(np.ascontiguousarray(first))).numpy()
    return Found(maps, scores, drawing.transpose(0, 2, 3, 1), other.transpose(0, 2, 3, 1), first)


def pointwise(images: np.ndarray) -> Found:
    """A network that sees one pixel at a time: green is its map, red its first map."""
    return found_of(images[:, 1], images[:, 2], images, 1 - images)


def forgetful(images: np.ndarray) -> Found:
    """A network that is wrong at the borders of what it is shown, by up to 0.5, as real ones are."""
    height, width = images.shape[2:]
    down, across = np.arange(height), np.arange(width)
    border = np.minimum(np.minimum(down, height - 1 - down)[:, None], np.minimum(across, width - 1 - across)[None])
    wrong = (images[:, 1] + 0.5 * np.exp(-border / 6)).clip(0, 1).astype(np.float32)
    return found_of(wrong, wrong, images, images)


def moody(images: np.ndarray) -> Found:
    """A network whose map of a tile is one number, as if it judged each tile by its own looks."""
    level = np.broadcast_to(images.mean(axis=(1, 2, 3))[:, None, None], images[:, 0].shape)
    return found_of(level, level, images, images)


def smooth_image(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    wave = 0.25 + 0.1 * np.sin(rows / 40) * np.cos(columns / 55)
    return np.repeat(wave[:, :, None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize("shape", [(250, 310), (96, 96), (97, 500), (40, 300), (300, 50), (20, 20)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_of_a_network_that_sees_single_pixels_give_its_map_and_score(
    shape: tuple[int, int], overlap: float
) -> None:
    image = np.random.default_rng(0).random((*shape, 3), dtype=np.float32)
    found = blended(pointwise, image, overlap=overlap)
    assert np.abs(found.map - image[:, :, 1]).max() < 1e-6
    assert found.score == pytest.approx(float(image_score(torch.from_numpy(image[None, :, :, 2].copy()))), abs=1e-6)
    for rule in (
        ScoreRule(1),
        ScoreRule(3),
        ScoreRule(63),
        ScoreRule(pixels=1),
        ScoreRule(pixels=49),
        ScoreRule(pixels=3969),
    ):
        wanted = float(image_score(torch.from_numpy(image[None, :, :, 2].copy()), rule))
        assert blended(pointwise, image, rule=rule, overlap=overlap).score == pytest.approx(wanted, abs=1e-6)
    assert found.input_image is not None and found.object_image is not None and found.general_image is not None
    assert np.abs(found.object_image - image).max() < 1e-6
    assert np.abs(found.general_image - (1 - image)).max() < 1e-6
    assert np.array_equal(found.input_image, image)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_the_batch_of_tiles_changes_nothing(batch: int) -> None:
    image = np.random.default_rng(0).random((250, 310, 3), dtype=np.float32)
    one, other = blended(forgetful, image, batch=1), blended(forgetful, image, batch=batch)
    assert np.array_equal(one.map, other.map)
    assert one.score == other.score


PATCHES = (
    np.kron(np.random.default_rng(2).random((8, 10)), np.ones((48, 48)))[:, :, None].repeat(3, 2).astype(np.float32)
)


@pytest.mark.parametrize(("network", "image"), [(forgetful, smooth_image(384, 480)), (moody, PATCHES)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_no_seam_is_visible(network: Any, image: np.ndarray, overlap: float) -> None:
    """Blended, the map is smooth across the tiles' borders; with no overlap its steps there are plain to see."""

    def largest_step(share: float) -> float:
        map_ = blended(network, image, overlap=share).map[20:-20, 20:-20]
        return max(float(np.abs(np.diff(map_, axis=axis)).max()) for axis in (0, 1))

    assert largest_step(overlap) < 0.035
    assert largest_step(0.0) > 3 * largest_step(overlap)


def test_a_shifted_grid_gives_nearly_the_same_map() -> None:
    """Errors of the network at its borders are blended away, so that where tiles lie hardly matters."""
    image = smooth_image(500, 500)
    whole = blended(forgetful, image, overlap=0.5).map
    shifted = blended(forgetful, image[37:, 23:].copy(), overlap=0.5).map
    assert np.abs(whole[37:, 23:] - shifted)[60:-60, 60:-60].max() < 0.03
    hard = np.abs(
        blended(forgetful, image, overlap=0.0).map[37:, 23:]
        - blended(forgetful, image[37:, 23:].copy(), overlap=0.0).map
    )
    assert hard[60:-60, 60:-60].max() > 0.3


def test_outside_the_scope_nothing_is_found_and_no_tile_is_inspected() -> None:
    image = np.ones((400, 500, 3), np.float32)
    image[:, :100] = 0.5
    left = ((0.0, 0.0), (0.2, 0.0), (0.2, 1.0), (0.0, 1.0))
    seen = 0

    def counting(images: np.ndarray) -> Found:
        nonlocal seen
        seen += len(images)
        return pointwise(images)

    found = blended(counting, image, include=[left])
    assert seen == 2 * 6, "columns of tiles that begin at 0 and at 67"
    assert (found.map[:, 100:] == 0).all()
    assert np.allclose(found.map[:, :100], 0.5)
    assert found.score == pytest.approx(0.5)
    rim = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.02), (0.0, 0.02))
    assert blended(pointwise, image, include=[rim]).score < 0.45, "a rim of 8 rows fills no square of 21"


def test_scope_in_the_middle_of_nothing_scores_what_is_there() -> None:
    """Rows that no tile holds lie above and below, more than a tile high."""
    image = np.zeros((900, 300, 3), np.float32)
    image[450:480, 100:140] = 0.8
    middle = ((0.0, 0.45), (1.0, 0.45), (1.0, 0.6), (0.0, 0.6))
    found = blended(pointwise, image, include=[middle])
    assert found.score == pytest.approx(0.8, abs=1e-6)
    assert found.map.max() == pytest.approx(0.8)


@pytest.mark.parametrize("shape", [(1300, 700), (513, 512), (2048, 40)])
def test_pictures_are_reduced_by_means_and_maps_by_largest_values(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random((*shape, 3), dtype=np.float32)
    found = blended(pointwise, image)
    assert found.object_image is not None and found.input_image is not None
    factor = -(-max(shape) // PREVIEW)
    rows, columns = -(-shape[0] // factor), -(-shape[1] // factor)
    assert found.object_image.shape == found.input_image.shape == (rows, columns, 3)
    assert max(rows, columns) <= PREVIEW
    assert found.object_image[0, 0] == pytest.approx(image[:factor, :factor].mean(axis=(0, 1)), abs=1e-5)
    last = image[(rows - 1) * factor :, (columns - 1) * factor :].mean(axis=(0, 1))
    assert found.object_image[-1, -1] == pytest.approx(last, abs=1e-5)
    small = reduced_map(found.map, factor)
    assert small.shape == (rows, columns)
    assert small[0, 0] == found.map[:factor, :factor].max() and small.max() == found.map.max()


def test_memory_is_the_map_and_a_batch_of_tiles() -> None:
    """An image of 24 million pixels: 96 MB of map, and little besides."""
    import tracemalloc

    image = np.broadcast_to(np.full((4000, 6000, 1), 9, np.uint8), (4000, 6000, 3))  # grey, as it is read

    chosen = settings(height=512, width=512)
    tracemalloc.start()
    try:
        found = inspect_tiles(pointwise, image, chosen, Scope(chosen), rule=AUTHORS, batch=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.map.nbytes == 96e6
    # The strip of detection rows and its means: 512 rows of 24 kB a few times over.
    assert peak < 96e6 + 90e6
