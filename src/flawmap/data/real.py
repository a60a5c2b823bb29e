"""A few real defective photos, when the user has them: seen as they are, and their defects pasted onto good photos.

What makes a defect is its difference from the surface it lies on. So a defect is cut out as the difference from what
its surroundings, smoothed over it, would be, and is laid onto good photos elsewhere, mirrored, fainter or stronger
(beyond DSR, which learns from good photos alone).

Axes: B images, N defective photos, H, W rows and columns of the network's input or of a crop of it, h, w of a defect's
box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.config import FewSettings, ImageSettings, RealSettings
from flawmap.data.dataset import random_crops
from flawmap.data.images import Image, Mask, read_image, resize_image
from flawmap.data.layouts import Sample
from flawmap.data.masks import MaskReader
from flawmap.data.scope import Scope
from flawmap.data.tiles import at_scale, cut
from flawmap.data.variation import lit, placed
from flawmap.data.white import White
from flawmap.errors import DataError

COVERED = 0.2  # of a pixel of the network's input, from which on it belongs to a mask: thin defects stay whole
WIDEN = 2  # pixels by which a mask is widened before its surroundings are smoothed over it: its edge is blurred
SMOOTH = (4.0, 24.0)  # pixels, least and largest deviation of the Gaussian by which surroundings are smoothed
SURROUNDED = 0.02  # weight of the nearest pixel of the surroundings, where hardly any are near
LARGEST = 0.9  # share of its box that a defect may cover to be cut out
WEAKEST, STRONGEST = 0.7, 1.3  # factors on a pasted defect's difference
TRIES = 8  # random crops, until one holds some of the defect
MILD = FewSettings(mirror="none", zoom=0.05, stretch=0.02, move=0.02, grain=0.2, contrast=0.1, brightness=0.1)


class Real(NamedTuple):
    """Defective images (B, 3, H, W) float32 in [0, 1], masks (B, H, W) bool, whether each has one (B,) bool, and which
    pixels count (B, H, W) bool."""

    images: Tensor
    masks: Tensor
    masked: Tensor
    counts: Tensor


class Patch(NamedTuple):
    """A defect cut out: its difference from its surroundings (3, h, w), where it is laid on (h, w), and its mask."""

    difference: Tensor
    opacity: Tensor
    mask: Tensor


class RealDefects:
    """Defective photos, read at the start. Raises ImageError for a broken one, DataError when none can be learnt from.

    Photos that are cut into tiles need masks: of each the tile around its defect is taken.
    """

    def __init__(self, samples: Sequence[Sample], settings: ImageSettings, scope: Scope) -> None:
        self.scope, self.whole = scope, settings.policy == "resize"
        masks = MaskReader()
        self.images: list[Image] = []
        self.masks: list[Mask | None] = []
        for sample in samples:
            image = read_image(sample.image, White.of(settings))
            scope.check(image.shape, str(sample.image))
            mask = masks.read(sample.masks, image.shape[:2]) if sample.masks else None
            if mask is not None and not mask.any():
                raise DataError(f"{sample.mask} marks no pixel of {sample.image}; correct it, or remove the mask")
            if settings.policy == "tile":
                if mask is None:
                    raise DataError(
                        f"{sample.image} has no mask, which photos that are cut into tiles need to be learnt from"
                    )
                image, mask = _tile(image, mask, settings)
            else:
                height, width = settings.height, settings.width
                image = resize_image(image, height, width, settings.shrink)
                mask = None if mask is None else _shrunk(mask, height, width)
            self.images.append(image)
            self.masks.append(mask)
        if not self.images:
            raise DataError(
                "no defective photos to learn from; name folders as docs/data.md says, or leave out --defects"
            )
        cut_outs = (
            cut_out(image, mask) for image, mask in zip(self.images, self.masks, strict=True) if mask is not None
        )
        self.mask_notes = masks.sentences()
        self.patches = [patch for patch in cut_outs if patch is not None]

    def __len__(self) -> int:
        return len(self.images)

    def draw(
        self,
        settings: RealSettings,
        good: Callable[[int], Tensor],
        generator: torch.Generator,
        *,
        crop: int,
        variation: FewSettings = MILD,
    ) -> Real:
        """`settings.batch` defective images; `good(n)` gives n good ones, (n, 3, H, W), to paste onto."""
        pasted = int((torch.rand(settings.batch, generator=generator) < settings.pasted).sum()) if self.patches else 0
        parts = []
        if settings.batch - pasted:
            parts.append(self._as_they_are(settings.batch - pasted, generator, crop, variation))
        if pasted:
            surfaces = good(pasted)  # cropped already
            chosen = torch.randint(len(self.patches), (pasted,), generator=generator).tolist()
            drawn = [
                paste(surface, self.patches[index], generator) for surface, index in zip(surfaces, chosen, strict=True)
            ]
            images, masks = (torch.stack(kind) for kind in zip(*drawn, strict=True))
            parts.append(Real(images, masks, torch.ones(pasted, dtype=torch.bool), torch.ones_like(masks)))
        images, masks, masked, counts = (torch.cat(kind) for kind in zip(*parts, strict=True))
        return Real(images.contiguous(memory_format=torch.channels_last), masks, masked, counts)

    def _as_they_are(self, count: int, generator: torch.Generator, crop: int, variation: FewSettings) -> Real:
        """Photos varied a little, mask and all, and cropped so that some of the defect is in them."""
        chosen = torch.randint(len(self.images), (count,), generator=generator).tolist()
        images, masks, masked, counts = [], [], [], []
        for index in chosen:
            image, mask = self.images[index], self.masks[index]
            known = np.zeros(image.shape[:2], np.bool_) if mask is None else mask
            inside = self.scope.inside(*image.shape[:2]) if self.whole else None
            counted = np.ones_like(known) if inside is None else inside
            marks = np.stack([known, counted], axis=2).astype(np.float32)
            both = np.concatenate([image, marks], axis=2)
            moved = placed(torch.from_numpy(both.transpose(2, 0, 1))[None], generator, variation)
            seen = random_crops(moved, generator, crop)
            for _ in range(TRIES):
                if mask is None or (seen[0, 3] > 0.5).any():
                    break
                seen = random_crops(moved, generator, crop)
            images.append(lit(seen[:, :3], generator, variation)[0])
            masks.append(seen[0, 3] > 0.5)
            masked.append(mask is not None)
            counts.append(seen[0, 4] > 0.5)
        return Real(torch.stack(images), torch.stack(masks), torch.tensor(masked), torch.stack(counts))


def cut_out(image: Image, mask: Mask) -> Patch | None:
    """The defect of an image (H, W, 3) under its mask (H, W); None where the mask leaves no surroundings to tell by."""
    from scipy import ndimage

    rows, columns = np.nonzero(mask)
    deviation = float(np.clip(np.sqrt(mask.sum()) / 2, *SMOOTH))
    margin = round(2 * deviation) + WIDEN + 2
    box = tuple(slice(max(int(places.min()) - margin, 0), int(places.max()) + margin + 1) for places in (rows, columns))
    inner, around = mask[box], image[box]
    wide = ndimage.binary_dilation(inner, iterations=WIDEN)
    if wide.mean() > LARGEST:
        return None
    nearest = ndimage.distance_transform_edt(wide, return_distances=False, return_indices=True)
    filled = around[tuple(nearest)]  # deep inside a large defect nothing else is near
    weight = ndimage.gaussian_filter((~wide).astype(np.float32), deviation)[:, :, None]
    smooth = np.stack([ndimage.gaussian_filter(around[:, :, c] * ~wide, deviation) for c in range(3)], axis=2)
    surface = (smooth + SURROUNDED * filled) / (weight + SURROUNDED)
    opacity = np.maximum(ndimage.gaussian_filter(wide.astype(np.float32), 1.0), inner)
    return Patch(
        torch.from_numpy(np.ascontiguousarray((around - surface).transpose(2, 0, 1), np.float32)),
        torch.from_numpy(opacity.astype(np.float32)),
        torch.from_numpy(inner.copy()),
    )


def paste(surface: Tensor, patch: Patch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A good image (3, H, W) with the defect somewhere, mirrored or not, weaker or stronger; and its mask (H, W)."""
    draws = torch.rand(5, generator=generator).tolist()
    axes = [axis for axis, draw in ((-1, draws[0]), (-2, draws[1])) if draw < 0.5]
    difference, opacity, mask = (part.flip(axes) if axes else part for part in patch)
    gain = WEAKEST + (STRONGEST - WEAKEST) * draws[2]
    height, width = surface.shape[-2:]
    marked = mask.nonzero()
    middle = marked[int(draws[3] * len(marked))].tolist()  # this place of the defect comes to a random place
    place = [int(draw * side) for draw, side in zip(((draws[3] * 977) % 1, draws[4]), (height, width), strict=True)]
    top, left = (at - inner for at, inner in zip(place, middle, strict=True))
    rows = slice(max(top, 0), min(top + mask.shape[0], height))
    columns = slice(max(left, 0), min(left + mask.shape[1], width))
    inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    image, marks = surface.clone(), torch.zeros(height, width, dtype=torch.bool)
    image[:, rows, columns] += gain * opacity[inside] * difference[(slice(None), *inside)]
    marks[rows, columns] = mask[inside]
    return image.clamp_(0, 1), marks


def _shrunk(mask: Mask, height: int, width: int) -> Mask:
    """A mask at the network's size: what is covered in part belongs to it, and never nothing."""
    share = resize_image(np.repeat(mask[:, :, None], 3, 2).astype(np.float32), height, width, "area")[:, :, 0]
    return np.asarray(share >= min(COVERED, float(share.max())))


def _tile(image: Image, mask: Mask, settings: ImageSettings) -> tuple[Image, Mask]:
    """The tile around the middle of a mask, at the scale at which photos are cut."""
    large = at_scale(image, settings)
    marked = mask if large.shape[:2] == mask.shape else _shrunk(mask, *large.shape[:2])
    sides = (settings.height, settings.width)
    places = np.argwhere(marked)
    middle = places[np.abs(places - np.median(places, axis=0)).sum(1).argmin()].tolist()  # of the defect itself
    top, left = (
        min(max(centre - side // 2, 0), max(length - side, 0))
        for centre, side, length in zip(middle, sides, large.shape[:2], strict=True)
    )
    inner = cut(marked[:, :, None].astype(np.float32), top, left, *sides)[:, :, 0] > 0
    return np.asarray(cut(large, top, left, *sides), np.float32), inner
