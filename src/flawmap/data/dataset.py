"""Good images for training: decoded once, drawn at random, rotated and cropped (DSR §4; METHOD stage 2).

Differs from the source: images live in memory as 16-bit integers at the network's size (so that neither 16-bit files
nor the resize lose depth), and a batch is rotated as one tensor.

Axes: B images, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawmap.config import ImageSettings
from flawmap.data.images import read_image, resize_image
from flawmap.data.scope import Scope
from flawmap.data.white import White

CACHE_BYTES = 3 << 29  # 1.5 GiB: about 4000 images of 256x256; further ones are decoded each time they are drawn

Pixels16 = np.ndarray[Any, np.dtype[np.uint16]]


def network_input(image: np.ndarray[Any, np.dtype[np.float32]], settings: ImageSettings) -> Tensor:
    """An image (H, W, 3) float32 in [0, 1] as the network sees it: (3, height, width) float32."""
    resized = resize_image(image, settings.height, settings.width, settings.shrink)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


class GoodImages:
    """The training images. Reading them all at the start finds every broken file before the first step.

    `white`: how 16 bits are read; None is as the settings say. Raises ImageError for a broken file, and for an image
    that `white` or the ignore mask of `scope` does not fit.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: ImageSettings,
        scope: Scope | None = None,
        white: White | None = None,
    ) -> None:
        self.paths, self.settings, self.scope = list(paths), settings, scope
        self.white = white or White.of(settings)
        self.cache: list[Pixels16 | None] = []
        held = 0
        for path in self.paths:
            pixels = self._read(path)
            held += pixels.nbytes
            self.cache.append(pixels if held <= CACHE_BYTES else None)

    def _read(self, path: Path) -> Pixels16:
        image = read_image(path, self.white)
        if self.scope is not None:
            self.scope.check(image.shape, str(path))
        resized = resize_image(image, self.settings.height, self.settings.width, self.settings.shrink)
        return (resized * 65535 + 0.5).astype(np.uint16)

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, indices: Sequence[int]) -> Tensor:
        """Images by number: (B, 3, H, W) float32 in [0, 1]."""
        kept = [self.cache[index] for index in indices]
        whole = [
            self._read(self.paths[index]) if pixels is None else pixels
            for index, pixels in zip(indices, kept, strict=True)
        ]
        return torch.from_numpy(np.stack(whole).astype(np.float32)).permute(0, 3, 1, 2).div_(65535)

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        *,
        rotate: float,
        degrees: float = 90.0,
        border: str = "zeros",
        crop: int = 0,
    ) -> Tensor:
        """`count` images drawn with replacement, a share `rotate` of them rotated, cropped to `crop` if not 0.

        `degrees`, `border`: as in `random_rotations`.
        """  # fmt: skip
        indices = torch.randint(len(self), (count,), generator=generator).tolist()
        return random_crops(random_rotations(self.get(indices), generator, rotate, degrees, border), generator, crop)


def random_rotations(
    images: Tensor, generator: torch.Generator, share: float, degrees: float = 90.0, border: str = "zeros"
) -> Tensor:
    """Rotate a `share` of the images (B, 3, H, W) by U(-degrees, degrees) about the centre.

    Outside is black (`border` "zeros") or the image mirrored at its sides ("reflection").
    """
    batch = len(images)
    turned = (torch.rand(batch, generator=generator) < share).nonzero().flatten()
    angles = (torch.rand(batch, generator=generator) - 0.5)[turned] * (2 * math.radians(degrees))
    if len(turned) == 0:
        return images
    result = images.clone()
    result[turned] = rotated(images[turned], angles, border)
    return result


def rotated(images: Tensor, angles: Tensor, border: str = "zeros", mode: str = "bilinear") -> Tensor:
    """Rotate images (B, C, H, W) about their centres by `angles` (B,), in radians, counterclockwise.

    `border`: as in `random_rotations`; `mode`: bilinear, or bicubic, which keeps more detail and may overshoot.
    """
    _, channels, height, width = images.shape
    aspect = height / width  # grid_sample's coordinates run from -1 to 1 along either side
    rows = [
        torch.stack([angles.cos(), -angles.sin() * aspect, angles * 0], 1),
        torch.stack([angles.sin() / aspect, angles.cos(), angles * 0], 1),
    ]
    shape = [len(images), channels, height, width]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode=mode, padding_mode=border, align_corners=False)


def random_crops(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """A random `side` by `side` part of each image; all of it when `side` is 0 or no smaller than the image."""
    batch, _, height, width = images.shape
    down, across = min(side or height, height), min(side or width, width)
    if (down, across) == (height, width):
        return images
    places = torch.rand(batch, 2, generator=generator)
    tops = (places[:, 0] * (height - down + 1)).long().tolist()
    lefts = (places[:, 1] * (width - across + 1)).long().tolist()
    return torch.stack(
        [image[:, top : top + down, left : left + across] for image, top, left in zip(images, tops, lefts, strict=True)]
    )
