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

STREAKED = 0.35  # least coherence of a streaked surface: magnetic tiles 0.5, brushed metal 0.9, commutators 0.25
STEP, SAMPLES = 4.0, 12  # pixels from one bend of a crack to the next, and points between them


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
    cracks: float = 0.0,
    without: Tensor | None = None,
) -> Tensor:
    """Opacity of defects (B, H, W) float32 in [0, 1]; a share `empty` is 0 everywhere.

    Shares `lines`, `blobs` and `regions` of the others are thin lines, groups of blobs and large parts of the image,
    the rest Perlin patches as `perlin_masks` makes them. A share `cracks` of the lines run almost straight, but for
    images chosen by `without` (B,) bool.
    """
    masks = torch.zeros(batch, height, width)
    blank = torch.rand(batch, generator=generator) < empty
    kinds = torch.rand(batch, generator=generator)
    for index in range(batch):
        if blank[index]:
            continue
        if kinds[index] < lines:
            straight = cracks > 0 and float(torch.rand((), generator=generator)) < cracks
            straight = straight and (without is None or not bool(without[index]))
            mask = crack(height, width, generator) if straight else line(height, width, generator)
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


def streaked(images: Tensor) -> Tensor:
    """Whether good images (B, 3, H, W) have streaks, as machined and brushed surfaces do: (B,) bool.

    By the coherence of the structure tensor at half size, the difference of its eigenvalues over their sum, in which no
    gradient counts for more than one in ten does (Bigün & Granlund 1987).
    """
    grey = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2)
    across = (grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]).flatten(1)
    down = (grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]).flatten(1)
    size = (across.square() + down.square()).sqrt()
    most = torch.kthvalue(size, max(1, int(0.9 * size.shape[1])), dim=1, keepdim=True).values
    weight = (most / size.clamp_min(1e-9)).clamp(max=1)
    across, down = across * weight, down * weight
    level, upright, both = across.square().mean(1), down.square().mean(1), (across * down).mean(1)
    coherence = ((level - upright).square() + 4 * both.square()).sqrt() / (level + upright).clamp_min(1e-12)
    return coherence > STREAKED


def crack(height: int, width: int, generator: torch.Generator) -> Tensor:
    """One to three almost straight lines (H, W) float32 of 0 and 1: 1 to 4 pixels wide, 1/12 to 1 of the shorter side
    long, thinner towards their ends; one in two is level or upright."""
    mask = torch.zeros(height, width)
    reach = torch.arange(-2, 3)
    around = torch.cartesian_prod(reach, reach)  # (25, 2)
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        down, across, turn, aligned, size, thick, rough = torch.rand(7, generator=generator).tolist()
        angle = (round(2 * turn) / 2 if aligned < 0.5 else turn) * math.pi
        count = max(int(min(height, width) * 12.0 ** (size - 1) / STEP), 2)
        bends = 0.25 * rough * torch.randn(count, generator=generator)
        angles = (angle + bends + 0.6 * rough * (bends.cumsum(0) - bends.sum() / 2)).repeat_interleave(SAMPLES)
        along = torch.stack([angles.sin(), angles.cos()], 1).cumsum(0) * (STEP / SAMPLES)
        points = along - along.mean(0) + torch.tensor([down * height, across * width])  # (N, 2)
        towards_end = torch.minimum(torch.arange(len(points)) + 1, len(points) - torch.arange(len(points)))
        half = (0.5 + 1.5 * thick**2) * (4 * towards_end / len(points)).clamp(max=1)  # (N,)
        own = points.floor().long()
        pixels = own[:, None] + around  # (N, 25, 2)
        near = (pixels + 0.5 - points[:, None]).square().sum(2) <= half[:, None].square()
        marked = torch.cat([pixels[near], own])  # its own pixels keep a thin line whole
        inside = ((marked >= 0) & (marked < torch.tensor([height, width]))).all(1)
        mask[marked[inside, 0], marked[inside, 1]] = 1
    return mask


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
