"""EfficientAD-S for time alone: the networks and maps of the public description, with random weights.

Source: Batzner, Heckler & König, EfficientAD, WACV 2024 (arXiv 2303.14535), tables of the appendix: a patch description
network as teacher (384 channels), a student of the same shape with 768, an autoencoder; maps of both differences,
quantile-normalised and averaged; the score is the map's maximum. Without padding in the patch description networks, as
there for inspection: 256x256 gives maps of 56x56.

Counted as bench/flops.py does (convolutions, 2 FLOP a multiply-add), 256x256 comes to 76 GFLOP, as in the paper.

Axes: B images, C channels, H, W rows and columns of the image, h, w of the maps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 384


class Result(NamedTuple):
    """map (B, H, W), score (B,)."""

    map: Tensor
    score: Tensor


def patch_description(outputs: int) -> nn.Sequential:
    """PDN-S: (B, 3, H, W) -> (B, outputs, h, w)."""
    return nn.Sequential(
        nn.Conv2d(3, 128, 4), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(128, 256, 4), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Conv2d(256, outputs, 4),
    )  # fmt: skip


class Autoencoder(nn.Module):
    """(B, 3, 256, 256) -> (B, CHANNELS, h, w): through one cell of 64 numbers, and up again by bilinear steps."""

    def __init__(self, side: int) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        down = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)]
        self.down = nn.ModuleList(down)
        self.narrow = nn.Conv2d(64, 64, 8)
        self.sides = (3, 8, 15, 32, 63, 127)
        self.up = nn.ModuleList(nn.Conv2d(64, 64, 4, padding=2) for _ in self.sides)
        self.side = side
        self.last = nn.Conv2d(64, 64, 3, padding=1)
        self.out = nn.Conv2d(64, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = F.relu(layer(x))
        x = self.narrow(x)
        for side, layer in zip(self.sides, self.up, strict=True):  # dropout after each is off when inspecting
            x = F.relu(layer(F.interpolate(x, size=(side, side), mode="bilinear")))
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear")
        return self.out(F.relu(self.last(x)))


class EfficientAD(nn.Module):
    """Inspects images (B, 3, 256, 256), RGB in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = patch_description(CHANNELS)
        self.student = patch_description(2 * CHANNELS)
        self.autoencoder = Autoencoder(56)
        # Of ImageNet, and of the teacher's channels on the training images
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.register_buffer("channel_mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("channel_deviation", torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("quantiles", torch.tensor([[0.1, 0.5], [0.1, 0.5]]))  # 90 % and 99.5 % of either map

    def forward(self, image: Tensor) -> Result:
        x = (image - self.mean) / self.deviation
        taught = (self.teacher(x) - self.channel_mean) / self.channel_deviation
        learned = self.student(x)
        rebuilt = self.autoencoder(x)
        from_teacher = (taught - learned[:, :CHANNELS]).square().mean(1, keepdim=True)
        from_rebuilt = (rebuilt - learned[:, CHANNELS:]).square().mean(1, keepdim=True)
        maps = [
            0.1 * (found - low) / (high - low)
            for found, (low, high) in zip((from_teacher, from_rebuilt), self.quantiles.unbind(), strict=True)
        ]
        joined = F.pad((maps[0] + maps[1]) / 2, (4, 4, 4, 4))
        whole = F.interpolate(joined, size=image.shape[-2:], mode="bilinear").squeeze(1)
        return Result(whole, whole.flatten(1).max(dim=1).values)
