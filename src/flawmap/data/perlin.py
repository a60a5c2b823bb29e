"""Random masks from 2-D gradient noise (Perlin 1985), the shapes of training defects (DSR §3.3).

The authors draw the noise with numpy image by image and rotate it with an image library; here a whole batch is
drawn from one torch generator, and the rotation turns the coordinates at which the noise is read, so that no border
is ever filled in. Rotation about the centre; outside the turned square the noise simply goes on.

Axes: B masks, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRADIENTS = 64  # the noise lattice repeats after this many cells, a power of two, far beyond what a turned mask reaches


def perlin_masks(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    octaves: int = 5,
    threshold: float = 0.5,
    empty: float = 0.5,
) -> Tensor:
    """Masks (B, H, W) bool, True where noise > `threshold`; a share `empty` of them is False everywhere.

    Noise cells a side: 2^u, u uniform in {0, …, octaves}, for x and y separately; rotated by U(-90, 90) degrees.
    The noise is scaled by sqrt(2), as is usual, and so lies within about [-1, 1].
    """
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    blank = torch.rand(batch, generator=generator) < empty
    exponents = torch.randint(0, octaves + 1, (batch, 2), generator=generator)
    angles = (torch.rand(batch, generator=generator) - 0.5) * math.pi
    directions = torch.rand(batch, GRADIENTS, GRADIENTS, generator=generator) * (2 * math.pi)
    for index in range(batch):
        if not blank[index]:
            cells = (2 ** exponents[index]).tolist()
            noise = perlin_noise(height, width, cells[0], cells[1], float(angles[index]), directions[index])
            masks[index] = noise > threshold
    return masks


def perlin_noise(height: int, width: int, down: int, across: int, angle: float, directions: Tensor) -> Tensor:
    """Gradient noise (H, W) with `down` by `across` cells, turned by `angle` (radians) about the centre.

    `directions` (G, G), G a power of two, holds the angle of the unit gradient at each lattice point, in radians.
    """
    rows = (torch.arange(height) + 0.5) / height - 0.5
    columns = (torch.arange(width) + 0.5) / width - 0.5
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    y = (math.cos(angle) * v - math.sin(angle) * u + 0.5) * down
    x = (math.sin(angle) * v + math.cos(angle) * u + 0.5) * across
    top, left = y.floor(), x.floor()
    fy, fx = y - top, x - left
    size = directions.shape[0]
    gradient_y, gradient_x = directions.sin().flatten(), directions.cos().flatten()
    row, column = top.long(), left.long()

    def corner(step_y: int, step_x: int) -> Tensor:
        at = ((row + step_y) & (size - 1)) * size + ((column + step_x) & (size - 1))  # the lattice repeats
        return gradient_y[at] * (fy - step_y) + gradient_x[at] * (fx - step_x)

    def fade(t: Tensor) -> Tensor:
        return t * t * t * (t * (t * 6 - 15) + 10)

    upper = torch.lerp(corner(0, 0), corner(0, 1), fade(fx))
    lower = torch.lerp(corner(1, 0), corner(1, 1), fade(fx))
    return math.sqrt(2) * torch.lerp(upper, lower, fade(fy))
