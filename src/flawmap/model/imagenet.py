"""Features of natural photos: EfficientNet-Lite0 up to its last block, trained to name what ImageNet's photos show.

Beyond DSR. Codes and drawings tell how a part looks, close by; features learnt to tell things apart tell what it is
like over a wider surrounding. Good parts have such features too, and how unlike theirs an image's are is evidence of a
defect (familiarity.py; Rippel et al. 2021 and Defard et al. 2021 do this with larger networks). Nothing here is trained
on a part.

Source: EfficientNet (Tan & Le 2019), the Lite variant: without squeeze and excitation, with ReLU6. Batch normalisation
is folded into the convolutions. Even sizes are padded as TensorFlow does, one more below and to the right: the weights
were learnt so.

Axes: B images, C channels, H, W rows and columns of the image, h, w of features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Blocks(NamedTuple):
    """Blocks in a row: how many, side of the kernel, stride of the first, expansion, channels that come out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM = 32  # channels
LITE0 = (
    Blocks(1, 3, 1, 1, 16),
    Blocks(2, 3, 2, 6, 24),
    Blocks(2, 5, 2, 6, 40),
    Blocks(3, 3, 2, 6, 80),
    Blocks(3, 5, 1, 6, 112),
    Blocks(4, 5, 2, 6, 192),
    Blocks(1, 3, 1, 6, 320),
)
TOLD = (3, 4, 5, 6)  # rows of blocks whose outputs are the features of low resolution
FINE = (2, 3, 4, 5)  # rows of blocks whose outputs are the features of high resolution
CELL, FINE_CELL = 16, 8  # pixels along the side of a cell of them
CHANNELS = sum(LITE0[number].channels for number in TOLD)
FINE_CHANNELS = sum(LITE0[number].channels for number in FINE)
MEAN, DEVIATION = 127 / 255, 128 / 255  # of pixels in [0, 1]


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow's "same" on even sizes: with a stride, one more below and to the right.

    Then padding is as wide on all sides, and what comes out has one more row above and column to the left than belong
    to it (`spare`), for whoever calls it to cut: laying the input out anew with its padding takes longer.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before = (kernel - stride) // 2
        self.spare = kernel - stride > 2 * before
        padding = before + stride if self.spare else before
        super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups)

    def cut(self, x: Tensor) -> Tensor:
        """What belongs to the output, or to what pointwise layers made of it."""
        return x[..., 1:, 1:] if self.spare else x


class Block(nn.Module):
    """Channels expanded, each convolved on its own, and brought together again; added to what came in where it fits."""

    def __init__(self, inputs: int, row: Blocks, stride: int) -> None:
        super().__init__()
        inner = inputs * row.expansion
        self.expand = Convolution(inputs, inner, 1) if row.expansion > 1 else None
        self.depthwise = Convolution(inner, inner, row.kernel, stride, groups=inner)
        self.project = Convolution(inner, row.channels, 1)
        self.adds = stride == 1 and inputs == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner = x if self.expand is None else nn.functional.relu6(self.expand(x), inplace=True)
        found: Tensor = self.project(nn.functional.relu6(self.depthwise(inner), inplace=True))
        return x + found if self.adds else self.depthwise.cut(found)


class ImageNetFeatures(nn.Module):
    """EfficientNet-Lite0 without its classifier; frozen."""

    low_channels, high_channels = CHANNELS, FINE_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        rows, inputs = [], STEM
        for row in LITE0:
            strides = [row.stride] + [1] * (row.repeats - 1)
            widths = [inputs] + [row.channels] * (row.repeats - 1)
            rows.append(
                nn.Sequential(*(Block(*each) for each in zip(widths, [row] * row.repeats, strides, strict=True)))
            )
            inputs = row.channels
        self.rows = nn.ModuleList(rows)
        self.requires_grad_(False)

    def blocks(self, image: Tensor) -> list[Tensor]:
        """What each row of blocks puts out, at 1/2, 1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the image (B, 3, H, W).

        Where a side halved is odd, with one cell more, so that none of the image is left out.
        """
        x = self.stem.cut(nn.functional.relu6(self.stem((image - MEAN) / DEVIATION), inplace=True))
        found = []
        for row in self.rows:
            x = row(x)
            found.append(x)
        return found

    def low_resolution(self, blocks: Sequence[Tensor]) -> Tensor:
        """Features (B, CHANNELS, H/16, W/16) of what `blocks` returns."""
        return low_resolution(blocks)

    def high_resolution(self, blocks: Sequence[Tensor]) -> Tensor:
        """Features (B, FINE_CHANNELS, H/8, W/8) of what `blocks` returns."""
        return high_resolution(blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Features of low resolution (B, CHANNELS, H/16, W/16) of images (B, 3, H, W), BGR in [0, 1]."""
        return low_resolution(self.blocks(image))


def low_resolution(blocks: Sequence[Tensor]) -> Tensor:
    """Features (B, CHANNELS, H/16, W/16) of what rows of blocks put out (`ImageNetFeatures.blocks`).

    Those of four rows, each a mean over 3 by 3 of its cells, brought to the grid of the first.
    """
    means = [nn.functional.avg_pool2d(blocks[number], 3, 1, 1, count_include_pad=False) for number in TOLD]
    height, width = means[0].shape[-2:]
    return torch.cat(
        [mean if mean.shape[-2:] == (height, width) else _times(mean, 2)[..., :height, :width] for mean in means],
        dim=1,
    )


def high_resolution(blocks: Sequence[Tensor]) -> Tensor:
    """Features (B, FINE_CHANNELS, H/8, W/8) of what rows of blocks put out, brought to the grid of the first.

    No means over several cells of a row: they outline what is small, where those of low resolution name what is odd.
    """
    height, width = blocks[FINE[0]].shape[-2:]
    return torch.cat(
        [_times(blocks[number], 2 ** _halvings(number))[..., :height, :width] for number in FINE],
        dim=1,
    )


def _halvings(row: int) -> int:
    """How often the grid of a row of blocks is halved after the first of FINE."""
    return sum(LITE0[number].stride == 2 for number in range(FINE[0] + 1, row + 1))


def _times(cells: Tensor, times: int) -> Tensor:
    """(B, C, h, w) -> (B, C, times h, times w)."""
    if times == 1:
        return cells
    size = times * cells.shape[-2], times * cells.shape[-1]
    return nn.functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)
