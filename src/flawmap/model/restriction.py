"""Subspace restriction: pull altered features back to those of good parts (DSR §3.2; Zavrtanik et al. 2022).

A U-shaped network without skip connections, so that a defect cannot slip past the narrow middle. Differs from the
authors' on grids whose side is not a multiple of 4, which theirs does not take: pooling rounds up, upsampling comes
back to the size of the level above, and a grid of 2x2 cells is not pooled further.

Axes: B images, D code length, h, w rows and columns of a grid of codes.
"""

from __future__ import annotations

from torch import Tensor, nn

from flawmap.model.blocks import ConvPair, Norm, normalisation


class SubspaceRestriction(nn.Module):
    """Codes of one grid (B, D, h, w) -> restricted features (B, D, h, w), still to be quantized.

    `length` is D, `widths` the channels of the three levels, at full, half and quarter grid size. Any grid of at
    least 2x2 cells works.
    """

    def __init__(self, length: int, widths: tuple[int, int, int] = (128, 256, 512), norm: Norm = "instance") -> None:
        super().__init__()
        first, second, third = widths
        self.down1 = ConvPair(length, first, first, norm)
        self.down2 = ConvPair(first, second, second, norm)
        self.down3 = ConvPair(second, third, third, norm)
        self.up2 = _convolution(third, second, norm)
        self.pair2 = ConvPair(second, second, second, norm)
        self.up1 = _convolution(second, first, norm)
        self.pair1 = ConvPair(first, first, first, norm)
        self.out = nn.Conv2d(first, length, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        half = halved(self.down1(codes))  # (B, widths[0], h/2, w/2)
        quarter = halved(self.down2(half))  # (B, widths[1], h/4, w/4)
        x = self.down3(quarter)
        x = self.pair2(self.up2(_resized(x, half)))
        x = self.pair1(self.up1(_resized(x, codes)))
        features: Tensor = self.out(x)
        return features


def halved(x: Tensor) -> Tensor:
    """Max-pool (B, C, h, w) to half the size, rounded up; a grid of 2x2 cells or fewer stays as it is.

    InstanceNorm has nothing to normalise in a single cell, and raises.
    """
    if max(x.shape[-2:]) <= 2:
        return x
    return nn.functional.max_pool2d(x, 2, ceil_mode=True)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners aligned, to the rows and columns of `like`: the authors' doubling where sides are even."""
    return nn.functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def _convolution(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), normalisation(norm, outputs), nn.ReLU(inplace=True))
