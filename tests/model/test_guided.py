"""The guided filter against its definition, window by window, and what it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flawmap.bundle import build
from flawmap.config import load_recipe
from flawmap.model.blocks import DARKEST
from flawmap.model.familiarity import PHOTO
from flawmap.model.guided import CELL, EVEN, WINDOW, guided


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cells(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return image.reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3))


def by_definition(map_: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """A ridge regression of the map on the photo in each window, its solutions averaged at each cell."""
    grey = photo.mean(0)
    grey = (grey - grey.mean()) / (grey.std(ddof=1) + DARKEST)
    small_map, small = cells(map_), cells(grey)
    height, width = small.shape
    lines = np.zeros((2, height, width))
    for row, column in np.ndindex(height, width):
        window = np.s_[
            max(row - WINDOW // 2, 0) : row + WINDOW // 2 + 1, max(column - WINDOW // 2, 0) : column + WINDOW // 2 + 1
        ]
        x, y = small[window].ravel(), small_map[window].ravel()
        design = np.vstack([np.stack([x - x.mean(), np.ones(len(x))], 1), [np.sqrt(EVEN * len(x)), 0]])
        slope, level = np.linalg.lstsq(design, np.append(y, 0), rcond=None)[0]
        lines[:, row, column] = slope, level - slope * x.mean()
    means = np.zeros_like(lines)
    for row, column in np.ndindex(height, width):
        window = np.s_[
            :,
            max(row - WINDOW // 2, 0) : row + WINDOW // 2 + 1,
            max(column - WINDOW // 2, 0) : column + WINDOW // 2 + 1,
        ]
        means[:, row, column] = lines[window].mean((1, 2))
    size = (height * CELL, width * CELL)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(means)[None], size=size, mode="bilinear")[0].numpy()
    return enlarged[0] * grey + enlarged[1]


def test_it_is_a_ridge_regression_of_the_map_on_the_photo_in_each_window() -> None:
    photo, maps = noise(1, 3, 48, 64), 4 * noise(1, 2, 48, 64, seed=1)
    photo = photo + torch.linspace(0, 2, 64)
    found = guided(maps, photo)
    for number in range(2):
        wanted = by_definition(maps[0, number].double().numpy(), photo[0].double().numpy())
        np.testing.assert_allclose(found[0, number].numpy(), wanted, atol=1e-4)


def test_images_and_maps_are_filtered_each_by_itself() -> None:
    photos, maps = noise(2, 3, 32, 48), noise(2, 2, 32, 48, seed=1)
    together = guided(maps, photos)
    for image in range(2):
        for number in range(2):
            alone = guided(maps[image, number][None, None], photos[image][None])
            torch.testing.assert_close(together[image, number], alone[0, 0])


def test_a_blurred_map_takes_the_outline_of_a_dark_crack() -> None:
    photo, truth = torch.full((1, 3, 64, 64), 0.6) + 0.02 * noise(1, 1, 64, 64), torch.zeros(64, 64, dtype=torch.bool)
    truth[30:33, 8:56] = True
    photo[:, :, truth] -= 0.3
    blurred = torch.nn.functional.avg_pool2d(truth.float()[None, None], 17, 1, 8)
    found = guided(blurred, photo)[0, 0]
    inside, beside = found[truth].mean(), found[34:38, 16:48].mean()
    assert blurred[0, 0][truth].mean() / blurred[0, 0, 34:38, 16:48].mean() < 1.3
    assert inside > 2 * beside.abs()


@pytest.mark.parametrize("gain", [0.3, 1.0])
def test_brightness_and_contrast_of_the_photo_change_little(gain: float) -> None:
    blocks = noise(1, 1, 4, 4).round().repeat_interleave(16, 2).repeat_interleave(16, 3)
    photo, maps = blocks.expand(1, 3, 64, 64), 4 * torch.nn.functional.avg_pool2d(blocks, 9, 1, 4)
    found = guided(maps, photo)
    assert found.std() > 1
    torch.testing.assert_close(guided(maps, gain * photo + 0.1), found, atol=0.2, rtol=0)


def test_an_even_photo_smooths_and_nothing_else() -> None:
    maps = noise(1, 1, 64, 64)
    found = guided(maps, torch.full((1, 3, 64, 64), 0.25))
    assert torch.isfinite(found).all()
    assert found.std() < maps.std() / 5
    assert found.mean() == pytest.approx(float(maps.mean()), abs=0.01)


def test_the_map_of_a_guided_model_takes_its_outlines_from_the_image_and_its_score_does_not() -> None:
    settings = [
        "model.codes=16", "model.code_length=8", "model.discrete_width=8", "model.discrete_hidden=4",
        "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4", "model.norm=batch",
        "refine.steps=0", 'model.familiarity=["encoder", "local"]', "model.score_pixels=9",
    ]  # fmt: skip
    found = []
    image = noise(2, 3, 48, 64)
    for guides in ("true", "false"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build(load_recipe(None, [*settings, f"model.guided={guides}"]).model, with_refinement=False).eval()
        with torch.no_grad():
            found.append(model(image))
            seen = model.examine(image)
        assert (PHOTO in seen.features) == (guides == "true")
    plain = torch.logit(found[1].map)[:, None]
    wanted = torch.sigmoid((plain + guided(plain, image)) / 2)[:, 0]
    torch.testing.assert_close(found[0].map, wanted, atol=1e-5, rtol=0)
    assert (found[0].map - found[1].map).abs().max() > 1e-3
    assert torch.equal(found[0].detection_map, found[1].detection_map)
    largest = found[0].detection_map.flatten(1).sort(descending=True).values[:, :9]
    torch.testing.assert_close(found[0].score, torch.sigmoid(torch.logit(largest).mean(1)))
