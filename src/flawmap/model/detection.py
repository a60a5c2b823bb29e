"""Anomaly detection and refinement: a U-Net that sees where two drawings differ (DSR §3.2; Zavrtanik et al. 2022).

One shape for both: the detection module reads the two drawings, the upsampling (refinement) module also the first map.

Axes: B images, C channels, H, W rows and columns of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flawmap.model.blocks import ConvPair, Norm, UpConv


class DetectionUNet(nn.Module):
    """(B, inputs, H, W) -> logits (B, 2, H, W), before softmax; channel 1 is "defect".

    Levels have `width`, 2, 4 and 4 times `width` channels. `inputs` is 6 for detection (two drawings; 9 with the image
    itself) and 8 for refinement (two drawings, a map of two channels). Sides must be multiples of 8. `outputs` is 2, or
    2 * s**2 where each place stands for s by s pixels folded into channels.
    """

    def __init__(self, inputs: int = 6, width: int = 64, norm: Norm = "instance", outputs: int = 2) -> None:
        super().__init__()
        self.down1 = ConvPair(inputs, width, width, norm)
        self.down2 = ConvPair(width, 2 * width, 2 * width, norm)
        self.down3 = ConvPair(2 * width, 4 * width, 4 * width, norm)
        self.down4 = ConvPair(4 * width, 4 * width, 4 * width, norm)
        self.up3 = UpConv(4 * width, 4 * width, norm)
        self.pair3 = ConvPair(8 * width, 4 * width, 4 * width, norm)
        self.up2 = UpConv(4 * width, 2 * width, norm)
        self.pair2 = ConvPair(4 * width, 2 * width, 2 * width, norm)
        self.up1 = UpConv(2 * width, width, norm)
        self.pair1 = ConvPair(2 * width, width, width, norm)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.with_features(x)[0]

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the features of its way up at a quarter of the size: (B, 4 width, H/4, W/4)."""
        level1 = self.down1(x)  # (B, width, H, W)
        level2 = self.down2(nn.functional.max_pool2d(level1, 2))  # (B, 2 width, H/2, W/2)
        level3 = self.down3(nn.functional.max_pool2d(level2, 2))  # (B, 4 width, H/4, W/4)
        x = self.down4(nn.functional.max_pool2d(level3, 2))  # (B, 4 width, H/8, W/8)
        features: Tensor = self.pair3(torch.cat([self.up3(x), level3], dim=1))
        x = self.pair2(torch.cat([self.up2(features), level2], dim=1))
        x = self.pair1(torch.cat([self.up1(x), level1], dim=1))
        logits: Tensor = self.out(x)
        return logits, features
