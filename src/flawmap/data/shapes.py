"""Shapes of painted training defects: Perlin patches (DSR §3.3), thin lines along level sets of noise, blobs, bands.

The paper's patches alone leave a detector blind to cracks and pores. All are drawn from one torch generator, half
of them with soft edges, so that a defect does not give itself away by a sharp border.

Axes: B masks, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flawmap.data.perlin import GRADIENTS, perlin_noise


def defect_masks(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    octaves: int = 5,
    threshold: float = 0.5,
    empty: float = 0.5,
    lines: float = 0.3,
    blobs: float = 0.3,
    regions: float = 0.0,
) -> Tensor:
    """Opacity of defects (B, H, W) float32 in [0, 1]; a share `empty` is 0 everywhere.

    Shares `lines`, `blobs` and `regions` of the others are thin lines, groups of blobs and large parts of the image,
    the rest Perlin patches as `perlin_masks` makes them.
    """
    masks = torch.zeros(batch, height, width)
    blank = torch.rand(batch, generator=generator) < empty
    kinds = torch.rand(batch, generator=generator)
    for index in range(batch):
        if blank[index]:
            continue
        if kinds[index] < lines:
            mask = line(height, width, generator)
        elif kinds[index] < lines + blobs:
            mask = blob_group(height, width, generator)
        elif kinds[index] < lines + blobs + regions:
            mask = region(height, width, generator)
        else:
            mask = (noise(height, width, generator, 0, octaves) > threshold).float()
        masks[index] = softened(mask, generator)
    return masks


def decoy_masks(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: large Perlin patches, or everything (one in four)."""
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    everywhere = torch.rand(batch, generator=generator) < 0.25
    for index in range(batch):
        masks[index] = True if everywhere[index] else noise(height, width, generator, 0, 3) > 0.2
    return masks


def noise(height: int, width: int, generator: torch.Generator, fewest: int, most: int) -> Tensor:
    """Perlin noise (H, W) of 2^u cells a side, u uniform in {fewest, …, most} for each axis, turned by any angle.

    Computed at half the size and enlarged: at that scale noise is smooth.
    """
    exponents = torch.randint(fewest, most + 1, (2,), generator=generator).tolist()
    angle = float((torch.rand((), generator=generator) - 0.5) * math.pi)
    directions = torch.rand(GRADIENTS, GRADIENTS, generator=generator) * (2 * math.pi)
    small = perlin_noise(-(-height // 2), -(-width // 2), 2 ** exponents[0], 2 ** exponents[1], angle, directions)
    return torch.nn.functional.interpolate(
        small[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]


def line(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Thin lines (H, W) float32 of 0 and 1: where noise crosses 0, 1 to 5 pixels wide, in a part of the image."""
    rough = 0.06 * float(torch.rand((), generator=generator))
    field = noise(height, width, generator, 0, 2) + rough * noise(height, width, generator, 4, 5)
    down, across = torch.gradient(field)
    slope = (down.square() + across.square()).sqrt().clamp_min(1e-4)
    half_width = 0.5 + 2.0 * float(torch.rand((), generator=generator)) ** 2
    thin = field.abs() / slope < half_width  # |noise| / slope is the distance to the crossing, in pixels
    window = noise(height, width, generator, 1, 3)
    whole = thin & (window > 0.15)
    return (whole if bool(whole.any()) else thin).float()


def blob_group(height: int, width: int, generator: torch.Generator) -> Tensor:
    """One to four ellipses (H, W) float32 of 0 and 1, half axes of 1/100 to 1/8 of the shorter side.

    In a group of three, on average one lies across the border: chipped edges.
    """
    count = int(torch.randint(1, 5, (), generator=generator))
    draws = torch.rand(count, 5, generator=generator)
    at_border = torch.rand(count, generator=generator) < 1 / 3
    nearest = torch.minimum(draws[:, :2], 1 - draws[:, :2]).argmin(1)
    draws[at_border, nearest[at_border]] = draws[at_border, nearest[at_border]].round()
    short = min(height, width)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None, :] + 0.5
    mask = torch.zeros(height, width, dtype=torch.bool)
    for down, across, size, flat, turn in draws.tolist():
        long_axis = short * 0.01 * (12.5**size)
        axes = max(long_axis, 1.0), max(long_axis * (0.35 + 0.65 * flat), 1.0)
        y, x = rows - down * height, columns - across * width
        cosine, sine = math.cos(turn * math.pi), math.sin(turn * math.pi)
        mask |= ((cosine * x + sine * y) / axes[0]) ** 2 + ((cosine * y - sine * x) / axes[1]) ** 2 < 1
    return mask.float()


def region(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A band, or one side of a line (H, W) float32 of 0 and 1: straight but for gentle noise, 5 to 50 % of it all."""
    draws = torch.rand(4, generator=generator).tolist()
    rows, columns = torch.arange(height)[:, None] / height - 0.5, torch.arange(width)[None, :] / width - 0.5
    # Defects of material and machining often run along the part: one in two is level or upright.
    angle = (round(2 * draws[0]) / 2 if draws[1] < 0.5 else draws[0]) * math.pi
    bent = 0.08 * draws[3] ** 2 * noise(height, width, generator, 0, 3)
    across = math.cos(angle) * rows + math.sin(angle) * columns + bent
    share = 0.05 + 0.45 * draws[2] ** 2
    order = across.flatten().sort().values
    start = float(torch.rand((), generator=generator)) * (1.0 - share)
    if float(torch.rand((), generator=generator)) < 0.5:  # one side
        start = 0.0 if start < (1.0 - share) / 2 else 1.0 - share
    last = len(order) - 1
    band: Tensor = (across >= order[int(start * last)]) & (across <= order[int((start + share) * last)])
    return band.float()


def softened(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A mask (H, W) with soft edges, one in two: blurred by a box of 3 to 15 pixels, twice; its peak stays 1."""
    soft, size = torch.rand(2, generator=generator).tolist()
    if soft < 0.5:
        return mask
    side = 3 + 2 * int(7 * size * size)
    blurred = mask[None, None]
    for _ in range(2):
        blurred = torch.nn.functional.avg_pool2d(blurred, side, 1, side // 2, count_include_pad=False)
    return blurred[0, 0] / blurred.max().clamp_min(1e-6)
