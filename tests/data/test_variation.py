"""Variation of good photos: each way on its own changes what it should and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from flawmap.config import FewSettings
from flawmap.data.variation import mirrored, vary

OFF = {"mirror": "none", "zoom": 0, "stretch": 0, "move": 0, "grain": 0, "contrast": 0, "brightness": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**ways: object) -> FewSettings:
    return FewSettings.model_validate({**OFF, **ways})


def pictures(count: int = 40, side: int = 32) -> torch.Tensor:
    """Grey waves of their own brightness, rough, well within [0, 1]."""
    rows, columns = torch.arange(side)[:, None] / side, torch.arange(side)[None] / side
    wave = 0.1 * torch.sin(5 * rows + 3 * columns * columns)
    noise = 0.02 * torch.randn(count, 3, side, side, generator=seeded(9))
    return 0.45 + wave + noise


def test_nothing_asked_for_changes_nothing() -> None:
    images = pictures()
    assert torch.equal(vary(images, seeded(), only()), images)


def test_the_same_generator_varies_alike_and_all_stays_within_its_range() -> None:
    images, settings = pictures(), FewSettings()
    one, two = (vary(images, seeded(3), settings) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, vary(images, seeded(4), settings))
    assert one.shape == images.shape and one.is_contiguous()
    wild = vary(images * 2, seeded(), only(brightness=2, contrast=2))
    assert float(wild.min()) >= 0 and float(wild.max()) <= 1


@pytest.mark.parametrize(
    ("mirror", "axes"), [("across", [(-1,)]), ("down", [(-2,)]), ("both", [(-1,), (-2,), (-1, -2)])]
)
def test_mirroring(mirror: str, axes: list[tuple[int, ...]]) -> None:
    images = pictures()
    found = mirrored(images, seeded(), mirror)
    kinds = [images, *(images.flip(axis) for axis in axes)]
    matches = torch.stack([(found == kind).flatten(1).all(1) for kind in kinds])
    assert (matches.sum(0) == 1).all(), "each image as it was or mirrored, as a whole"
    assert (matches.float().mean(1) > 0.1).all(), "and some of each"


@pytest.mark.parametrize(("way", "spread"), [("brightness", 0.3), ("contrast", 0.4)])
def test_tone_changes_by_up_to_the_stated_factor(way: str, spread: float) -> None:
    images = pictures(200)
    found = vary(images, seeded(), only(**{way: spread}))
    measure = (lambda x: x.mean((1, 2, 3))) if way == "brightness" else (lambda x: x.std((1, 2, 3)))
    factors = measure(found) / measure(images)
    assert math.exp(-spread) - 1e-3 <= float(factors.min()) < math.exp(-0.8 * spread)
    assert math.exp(0.8 * spread) < float(factors.max()) <= math.exp(spread) + 1e-3
    if way == "contrast":
        assert torch.allclose(found.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-5)


def test_grain_changes_and_what_is_smooth_stays() -> None:
    images = pictures(100)
    found = vary(images, seeded(), only(grain=0.5))

    def local(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    factors = (found - local(images)).std((1, 2, 3)) / (images - local(images)).std((1, 2, 3))
    assert 0.6 <= float(factors.min()) < 0.7 < 1.4 < float(factors.max()) <= 1.66
    assert float((local(found) - local(images)).abs().mean()) < 0.01


@pytest.mark.parametrize(("way", "amount"), [("zoom", 0.2), ("stretch", 0.2), ("move", 0.1)])
def test_places_move_no_further_than_stated(way: str, amount: float) -> None:
    """A bright dot in the upper right is found again where the way may have brought it."""
    images = torch.zeros(60, 3, 64, 64)
    images[:, :, 15:17, 47:49] = 1  # its centre at (16, 48), 16 up and right of the middle
    found = vary(images, seeded(), only(**{way: amount}))[:, 0]
    weight = found / found.sum((1, 2), keepdim=True)
    at = torch.arange(64) + 0.5
    down, across = (weight.sum(2) * at).sum(1) - 16, (weight.sum(1) * at).sum(1) - 48
    far = {"zoom": 16 * 0.2 / 0.8, "stretch": 16 * 0.2 / 0.8, "move": 64 * 0.1}[way] + 0.2
    assert float(down.abs().max()) <= far and float(down.abs().max()) > 0.3 * far
    assert (float(across.abs().max()) < 0.01) == (way == "stretch")
    assert float(across.abs().max()) <= far
    if way == "zoom":
        assert torch.allclose(down, -across, atol=0.05), "towards or from the middle"
