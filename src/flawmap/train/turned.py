"""Turned copies of good photos, whose patches go into a memory bank where parts lie at any angle.

Of a turned picture only what was in the picture before counts: cells made of pixels within it, not of its mirrored
border. Features of a network that learnt from upright photos change as a part is turned, so that few photos show few of
the ways in which a place of a part may look.

Axes: C channels, H, W rows and columns of a picture, h, w of features, N patches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.data.dataset import rotated
from flawmap.data.images import Mask
from flawmap.model.familiarity import surroundings, within_border

ANGLES = tuple(45.0 * number for number in range(1, 8))  # degrees
PHOTOS = 200  # good photos that are turned, at most about: each takes as long as so many photos as there are angles


class Turned(NamedTuple):
    """A turned picture (1, 3, H, W), and the pixels (H, W) bool of it that count and were in the picture before."""

    picture: Tensor
    valid: Tensor


def turned_picture(picture: Tensor, inside: Mask | None, degrees: float) -> Turned:
    """A picture (1, 3, H, W) on the CPU turned about its centre; `inside`: (H, W) what of it counts, None for all."""
    angles = torch.tensor([math.radians(degrees)])
    counts = torch.ones(1, 1, *picture.shape[-2:])
    if inside is not None:
        counts = torch.from_numpy(inside)[None, None].float()
    turned = rotated(picture, angles, "reflection", "bicubic").clamp(0, 1)
    return Turned(turned, rotated(counts, angles)[0, 0] > 0.999)


def patches_within(features: Tensor, valid: Tensor, around: int) -> Tensor:
    """Patches (N, C) of features (1, C, h, w), each a mean over `around` by `around` cells, of those whose cells are
    `valid` (H, W) bool altogether. The outermost cells are left out, as everywhere. There may be none."""
    means = surroundings(features, around)
    outside = (~valid[None, None]).to(features.device, torch.float32)
    inner = within_border(nn.functional.adaptive_max_pool2d(outside, features.shape[-2:]))
    side = inner.shape[-1] - means.shape[-1] + 1
    inner = nn.functional.max_pool2d(inner, side, 1) if side > 1 else inner
    return means[0][:, inner[0, 0] == 0].t()
