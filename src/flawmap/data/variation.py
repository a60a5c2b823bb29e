"""Good photos varied as the next lot of parts and the next lamp would: for where there are few of them (beyond DSR).

From some hundred photos a model learns those parts rather than what parts are like, and its map on the next ones is
restless. Where there are many, what they do not show is better left to be a defect (docs/speed.md).

Axes: B images, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flawmap.config import FewSettings

GRAIN_SIDE = 5  # pixels along the side of the square whose mean is left alone when grain is changed


def vary(images: Tensor, generator: torch.Generator, settings: FewSettings) -> Tensor:
    """Images (B, 3, H, W) float32 in [0, 1], each mirrored, zoomed, stretched, moved, roughened or smoothed, and lit
    otherwise, as far as `settings` say; beyond its sides an image is mirrored."""
    return lit(placed(images, generator, settings), generator, settings)


def placed(images: Tensor, generator: torch.Generator, settings: FewSettings) -> Tensor:
    """Images (B, C, H, W), each mirrored, zoomed, stretched and moved; a mask may be one of the channels."""
    images = mirrored(images, generator, settings.mirror)
    if settings.zoom or settings.stretch or settings.move:
        images = _moved(images, generator, settings)
    return images


def lit(images: Tensor, generator: torch.Generator, settings: FewSettings) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], each roughened or smoothed, and of other contrast and brightness."""
    if settings.grain:
        local = torch.nn.functional.avg_pool2d(images, GRAIN_SIDE, 1, GRAIN_SIDE // 2, count_include_pad=False)
        images = local + (images - local) * _factors(images, generator, settings.grain)
    if settings.contrast:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * _factors(images, generator, settings.contrast)
    if settings.brightness:
        images = images * _factors(images, generator, settings.brightness)
    return images.clamp(0, 1).contiguous()


def mirrored(images: Tensor, generator: torch.Generator, mirror: str) -> Tensor:
    """Images (B, 3, H, W), one in two mirrored: `across` for left and right, `down` for top and bottom, `both`."""
    draws = torch.rand(2, len(images), generator=generator) < 0.5
    for axis, names, chosen in ((-1, ("across", "both"), draws[0]), (-2, ("down", "both"), draws[1])):
        if mirror in names:
            images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
    return images


def _factors(images: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    """e^U(-spread, spread), one for each image: (B, 1, 1, 1)."""
    draws = torch.rand(len(images), 1, 1, 1, generator=generator)
    return torch.exp(spread * (2 * draws - 1))


def _moved(images: Tensor, generator: torch.Generator, settings: FewSettings) -> Tensor:
    draws = 2 * torch.rand(len(images), 4, generator=generator) - 1
    grid = torch.zeros(len(images), 2, 3)
    grid[:, 0, 0] = 1 / (1 + settings.zoom * draws[:, 0])
    grid[:, 1, 1] = grid[:, 0, 0] * (1 + settings.stretch * draws[:, 1])
    grid[:, :, 2] = 2 * settings.move * draws[:, 2:]  # grid_sample's sides are 2 long
    places = torch.nn.functional.affine_grid(grid, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, places, padding_mode="reflection", align_corners=False)
