"""Pieces shared by the networks of DSR (Zavrtanik et al. 2022): residual stack, convolution pairs, upsampling.

And what several parts do to pictures.

Axes: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Norm = Literal["instance", "batch"]
DARKEST = 0.02  # added to the deviation of a picture, of 1, before dividing by it: noise is not blown up


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm with a fixed momentum and so without the count of batches, which no weights file then carries."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        nn.Module._load_from_state_dict(self, *arguments)  # PyTorch's own would ask for the count


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm without weights. In bfloat16 on a CPU each image goes through BatchNorm's kernel, on its own.

    PyTorch's own lays channels-last images out anew and takes nearly twice as long in training (docs/speed.md), but
    adds up more exactly (4e-7 against 1e-5), which is kept where the precision is float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        on_cpu = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if not on_cpu or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        one_by_one = [
            nn.functional.batch_norm(image, None, None, training=True, eps=self.eps) for image in torch.split(x, 1)
        ]
        return one_by_one[0] if len(x) == 1 else torch.cat(one_by_one)


def normalisation(kind: Norm, channels: int) -> nn.Module:
    """InstanceNorm (the paper's; statistics of each image as a whole) or BatchNorm (fixed once trained).

    With BatchNorm a part of an image is seen as in the whole, and the layer vanishes into the convolution before it.
    """
    return InstanceNorm(channels) if kind == "instance" else BatchNorm(channels)


class ResidualLayer(nn.Module):
    """y = ReLU(x); y + conv1x1(ReLU(conv3x3(y))), both convolutions without bias.

    The skip carries ReLU(x), not x. Kept: the authors' first ReLU works in place, and their weights need it.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv1x1 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = torch.relu(x)
        change: Tensor = self.conv1x1(torch.relu(self.conv3x3(y)))
        return y + change


class ResidualStack(nn.Module):
    """`layers` residual layers, then ReLU. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ResidualLayer(channels, hidden) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        for layer in self.layers:
            x = layer(x)
        return torch.relu(x)


class ConvPair(nn.Sequential):
    """Two of (3x3 convolution, norm, ReLU): `inputs` -> `middle` -> `outputs` channels."""

    def __init__(self, inputs: int, middle: int, outputs: int, norm: Norm = "instance") -> None:
        super().__init__(
            nn.Conv2d(inputs, middle, 3, padding=1),
            normalisation(norm, middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 3, padding=1),
            normalisation(norm, outputs),
            nn.ReLU(inplace=True),
        )


class UpConv(nn.Sequential):
    """Twice the size by bilinear interpolation (corners aligned), then 3x3 convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: Norm = "instance") -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            normalisation(norm, outputs),
            nn.ReLU(inplace=True),
        )


def start_from_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw every convolution weight of `module` from N(0, std), biases zero (authors: detection and object decoder)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def standardised(pictures: Tensor, channels: int = 3) -> Tensor:
    """Pictures stacked (B, C, H, W), shifted and scaled by mean and deviation of the last one, of so many channels."""
    last = pictures[:, -channels:].float()
    mean = _image_mean(last)
    variance = _image_mean((last - mean).square()) * (last[0].numel() / (last[0].numel() - 1))
    return (pictures - mean) / (variance.sqrt() + DARKEST)


def _image_mean(x: Tensor) -> Tensor:
    """Mean of each image (B, C, H, W) -> (B, 1, 1, 1), of its rows first.

    A running sum over all of it, as ONNX Runtime's, loses five bits, which a nearly even surface magnifies.
    """
    return x.mean(3, keepdim=True).mean((1, 2), keepdim=True)


def enlarged(cells: Tensor, size: torch.Size) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), between cells linear; what has that size already stays."""
    same = cells.shape[-2:] == size
    return cells if same else nn.functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)
