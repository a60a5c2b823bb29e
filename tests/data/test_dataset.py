"""Training images: what is drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.config import ImageSettings
from flawmap.data.dataset import GoodImages, network_input, random_crops, random_rotations
from flawmap.data.images import write_image


@pytest.fixture
def images(tmp_path: Path) -> GoodImages:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        write_image(paths[-1], rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    return GoodImages(paths, ImageSettings(height=48, width=64))


def test_cached_pixels_are_the_network_input(images: GoodImages) -> None:
    from flawmap.data.images import read_image

    expected = network_input(read_image(images.paths[3]), images.settings)
    assert torch.allclose(images.get([3])[0], expected, atol=1 / 65535)


def test_what_does_not_fit_into_memory_is_read_again(images: GoodImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawmap.data.dataset.CACHE_BYTES", 2 * 48 * 64 * 3 * 2)
    short = GoodImages(images.paths, images.settings)
    assert [entry is None for entry in short.cache] == [False, False, True, True, True]
    assert torch.equal(short.get([0, 1, 2, 3, 4]), images.get([0, 1, 2, 3, 4]))


def test_one_seed_draws_one_batch(images: GoodImages) -> None:
    first, second = (images.draw(8, torch.Generator().manual_seed(1), rotate=0.5, crop=32) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 32, 32)


def test_rotation_keeps_the_centre_and_blackens_the_corners() -> None:
    white = torch.ones(200, 3, 64, 64)
    turned = random_rotations(white, torch.Generator().manual_seed(0), share=0.4)
    assert torch.allclose(turned[:, :, 31:33, 31:33], torch.ones(()))
    rotated = turned[:, 0, 0, 0] < 0.5
    assert 0.3 < float(rotated.float().mean()) < 0.5


def test_rotation_does_not_stretch_a_rectangle() -> None:
    """A centred disc stays a disc of the same area at any angle, also in an image twice as wide as high."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(128) - 63.5, indexing="ij")
    disc = ((x**2 + y**2).sqrt() < 20).float().expand(50, 3, 64, 128)
    turned = random_rotations(disc, torch.Generator().manual_seed(0), share=1.0)
    assert float((turned - disc).abs().mean()) < 0.01


def test_crops_are_parts_of_the_image() -> None:
    image = torch.arange(3 * 10 * 12, dtype=torch.float32).view(1, 3, 10, 12)
    crop = random_crops(image, torch.Generator().manual_seed(2), 4)[0, 0]
    top, left = divmod(int(crop[0, 0]), 12)
    assert torch.equal(crop, image[0, 0, top : top + 4, left : left + 4])
    assert random_crops(image, torch.Generator(), 0) is image
