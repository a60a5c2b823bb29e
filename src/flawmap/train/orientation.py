"""Recognition of parts that lie at varying angles, from a sample of the good photos and pretrained features.

Each photo is turned about its centre in steps of 30 degrees, and EfficientNet-Lite0's features are taken of its inner
circle at each turn. What they have in common at all turns of all photos (a vignette, a round outline) is subtracted, as
it tells nothing of an angle. How alike two photos are at a relative turn is the largest normalised cross-correlation of
their features over shifts, since parts are moved as well as turned. Then a turn is sought for each photo such that all
agree best (angular synchronisation; Singer 2011, here by coordinate ascent). Where parts lie alike, they agree as well
as they lie; where no angle stands out, as of many textures, turning helps no more than it does any other pair.

Axes: P photos, K turns, C channels, H, W rows and columns of a photo, h, w of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flawmap.bundle import load_imagenet
from flawmap.config import Recipe
from flawmap.data.dataset import rotated
from flawmap.data.images import Image, read_image, resize_image
from flawmap.data.white import FULL_SCALE, White
from flawmap.measure.orientation import FEWEST, Orientation
from flawmap.model.familiarity import PRETRAINED
from flawmap.model.imagenet import ImageNetFeatures

PHOTOS = 24  # of the good photos, at most
TURNS = 12  # of 360 degrees
SIDE = 160  # pixels of the central square of a photo, made so large
ROW = 3  # of EfficientNet-Lite0's rows of blocks: 80 channels at 1/16
SHIFT = 0.25  # of the side, by which parts may be moved against each other, along either axis
ROTATED = {"rotate": 0.5, "rotate_degrees": 180.0, "rotate_border": "mirror"}  # of `anomalies`, where parts vary
STARTS = 8  # photos whose own best turns the search begins from
SWEEPS = 20


def asks_for_orientation(recipe: Recipe) -> bool:
    """Whether what a recipe does depends on how parts lie."""
    model = recipe.model
    patches = model.turned_patches == "auto" and model.memory and {*PRETRAINED} & {*model.familiarity}
    return bool(patches) or recipe.anomalies.turned == "auto"


def settled(recipe: Recipe, orientation: Orientation) -> Recipe:
    """`recipe` with `model.turned_patches` and `anomalies.turned` settled by how parts lie."""
    model, defects, detect = recipe.model, recipe.anomalies, recipe.detect
    if model.turned_patches == "auto":
        model = model.model_copy(update={"turned_patches": "always" if orientation.varies else "never"})
    if defects.turned == "auto" and orientation.varies and not defects.rotate:
        defects = defects.model_copy(update=ROTATED)
        if detect.replay_turns == "none":
            detect = detect.model_copy(update={"replay_turns": "quarter"})
    defects = defects.model_copy(update={"turned": "given"})
    return recipe.model_copy(update={"model": model, "anomalies": defects, "detect": detect})


def recognise(paths: Sequence[Path], device: torch.device | str = "cpu", white: White = FULL_SCALE) -> Orientation:
    """Tell from up to PHOTOS good photos, evenly chosen, whether parts lie at varying angles.

    `white`: how 16 bits are read. About 6 seconds on one core. Raises ImageError for a broken photo.
    """
    count = min(PHOTOS, len(paths))
    if count < FEWEST:
        return Orientation(count)
    return from_images((read_image(paths[number * len(paths) // count], white) for number in range(count)), device)


@torch.inference_mode()
def from_images(images: Iterable[Image], device: torch.device | str = "cpu") -> Orientation:
    """Tell from photos, (H, W, 3) each, of which there are FEWEST or more, whether parts lie at varying angles."""
    network = ImageNetFeatures().eval()
    load_imagenet(network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return told_by(agreement(torch.stack([_at_all_turns(image, network) for image in images])))


def told_by(table: Tensor) -> Orientation:
    """Whether parts vary in angle, by the agreement (P, P, K) of photos at relative turns, as `agreement` gives it."""
    count = len(table)
    turns = fitting_turns(table)
    often = torch.bincount(turns, minlength=TURNS).float()
    near = often + often.roll(1) + often.roll(-1)  # a turn and its neighbours are one angle
    pairs = ~torch.eye(count, dtype=torch.bool)
    return Orientation(
        photos=count,
        apart=round(1 - float(near.max()) / count, 4),
        as_they_lie=round(_mean(table, torch.zeros_like(turns)), 4),
        turned=round(_mean(table, turns), 4),
        any_turn=round(float(table.mean(-1)[pairs].mean()), 4),
    )


def _at_all_turns(image: Image, network: ImageNetFeatures) -> Tensor:
    """Features (K, C, h, w) on the CPU of the central square of a photo (H, W, 3), turned by 0 to 330 degrees."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = resize_image(image[top : top + side, left : left + side], SIDE, SIDE, "area")
    pixels = torch.from_numpy(square.transpose(2, 0, 1).copy())[None].expand(TURNS, -1, -1, -1)
    angles = torch.arange(TURNS) * (2 * math.pi / TURNS)
    turned = rotated(pixels, angles, "reflection").to(next(network.parameters()).device)
    return network.blocks(turned.contiguous(memory_format=torch.channels_last))[ROW].float().cpu()


def agreement(features: Tensor) -> Tensor:
    """Agreement (P, P, K) of photos by their features at all turns (P, K, C, h, w), each in [-1, 1].

    At [i, j, k] that of photo i with photo j turned k steps further: the largest normalised cross-correlation over
    shifts up to SHIFT, averaged over the turns of both together.
    """
    count, turns, _, side, _ = features.shape
    line = torch.arange(side) - (side - 1) / 2
    circle = (line[:, None].hypot(line[None]) <= (side - 1) / 2).float()
    told = features - features.mean((0, 1))
    deviation = told[..., circle > 0].std((0, 1, 3)).clamp_min(1e-6)
    told = told / deviation[:, None, None] * circle
    norms = told.square().sum((2, 3, 4)).sqrt().clamp_min(1e-6)  # (P, K)
    padded = 2 * side
    spectra = torch.fft.rfft2(told, s=(padded, padded))
    reach = round(SHIFT * side)
    table = torch.ones(count, count, turns)
    for first in range(count):
        for second in range(first):
            found = torch.empty(turns)
            for turn in range(turns):
                other = spectra[second].roll(-turn, 0).conj()
                shifts = torch.fft.irfft2((spectra[first] * other).sum(1), s=(padded, padded))
                near = shifts.roll((reach, reach), (-2, -1))[..., : 2 * reach + 1, : 2 * reach + 1]
                alike = near.flatten(1).amax(1) / (norms[first] * norms[second].roll(-turn, 0))
                found[turn] = alike.mean()
            table[first, second] = found
            table[second, first] = found[(-torch.arange(turns)) % turns]
    return table


def fitting_turns(table: Tensor) -> Tensor:
    """Steps (P,) by which each photo is turned so that all agree best, by `agreement`.

    By coordinate ascent, a photo at a time, from the photos as they lie and from the turns that fit each of some.
    """
    count, _, turns = table.shape
    photos, steps = torch.arange(count), torch.arange(turns)
    starts = [torch.zeros(count, dtype=torch.long)]
    for number in range(0, count, -(-count // STARTS)):
        start = table[number].argmax(1)
        start[number] = 0
        starts.append(start)
    found = []
    for start in starts:
        chosen = start.clone()
        for _ in range(SWEEPS):
            before = chosen.clone()
            for photo in range(count):
                relative = (steps[:, None] - chosen[None]) % turns  # (K, P)
                told = table[photos[None], photo, relative]
                told[:, photo] = 0
                chosen[photo] = told.sum(1).argmax()
            if torch.equal(before, chosen):
                break
        found.append(chosen)
    return max(found, key=lambda chosen: _mean(table, chosen))


def _mean(table: Tensor, turns: Tensor) -> float:
    """Mean agreement of two photos, each turned by its own of so many steps (P,)."""
    photos = torch.arange(len(table))
    relative = (turns[None] - turns[:, None]) % table.shape[-1]
    agreed = table[photos[:, None], photos[None], relative]
    pairs = ~torch.eye(len(table), dtype=torch.bool)
    return float(agreed[pairs].mean())
