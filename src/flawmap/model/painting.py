"""Training defects painted onto the image itself: what altered codes draw, laid over the photo (beyond DSR §3.3).

In the paper altered codes go straight into the networks, which may learn what disturbed codes look like rather than
what a defect looks like, and whose defects are whole cells of 4 or 8 pixels. Here the general decoder draws the altered
and the untouched codes, and their difference is added to the photo under a mask of any shape. The photo is then
encoded like any other. Still no texture from outside: all that is painted comes out of codes.

Five ways to alter, per image: the paper's (each cell's code resampled on its own), `shift` (one vector, the
difference of two of the object's own codes, added to all features), `blend` (features drawn towards one of the
object's own codes), `transplant` (codes of another good image, mirrored and from another place), `deform` (codes of the
image itself from a few cells away, farther here and nearer there, as if the surface were bent). `shift` and `blend`
keep a defect coherent: darker, smoother, discoloured as a whole. `transplant` keeps its texture real and only its place
wrong, as pasted patches of good images do (Schlüter et al., NSA, ECCV 2022); in half of them the tone is kept too.

Axes: B images, D code length, H, W rows and columns of the image, h, w of a grid of codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.model.anomalies import RankTables, pool_mask, replace_codes
from flawmap.model.codebook import Codebook
from flawmap.model.discrete import COARSE, FINE, DiscreteModel, Encoding

GREY = 2e-3  # images whose channels differ less than this are grey, and stay so
GRAIN_SIDE = 15  # pixels along the side of the square of a local mean
LARGE = 0.01  # share of the image from which on a defect is plain with less contrast
STRONGEST = 0.4  # largest mean change, of 1
FADED = 0.05  # opacity up to which a soft edge does not count as a part of the defect
BENDS = 3  # points along a side between which a deformation is interpolated
FARTHEST = 2.0  # coarse cells that a bend of one deviation moves codes by, at most
FAINTEST = 1e-3  # mean change, of 1, below which a change is not brought up to the wanted contrast in full


class Painted(NamedTuple):
    """image (B, 3, H, W): with defects; mask (B, H, W) bool: where they can be seen; clean: codes of the good image;
    unsure (B, H, W) bool: painted over, but too faintly to be seen."""

    image: Tensor
    mask: Tensor
    clean: Encoding
    unsure: Tensor


class Ways(NamedTuple):
    """Shares of defects made by `shift`, `blend`, `transplant`, `deform` (the rest by the paper's rule), and of decoys.

    `opacity`: range of the factor on what the altered codes change; `visible`: mean change of a pixel, of 1, under
    which it does not count as part of a defect.
    `contrast`: what fainter defects are raised to, in units of the surface's grain; `visible` is in these units then.
    With `own_pixels` the mean that `visible` is held against is over a defect's own pixels near by, where otherwise the
    unchanged ones beside a thin line count too; with `contrast` it always is.
    `grids`: "both", or the one grid, "coarse" or "fine", whose codes are altered.
    A decoy is a region drawn from its own, unaltered codes: it bears every mark of a decoder, and is no defect.
    """

    shift: float = 0.35
    blend: float = 0.35
    decoy: float = 0.3
    opacity: tuple[float, float] = (0.4, 1.2)
    visible: float = 0.02
    transplant: float = 0.0
    contrast: tuple[float, float] | None = None
    own_pixels: bool = False
    grids: str = "both"
    deform: float = 0.0


@torch.no_grad()
def paint(
    discrete: DiscreteModel,
    image: Tensor,
    masks: Tensor,
    decoys: Tensor,
    generator: torch.Generator,
    *,
    ways: Ways,
    strength: tuple[float, float] = (0.2, 1.0),
    skip_nearest: float = 0.05,
    tables: RankTables | None = None,
) -> Painted:
    """Paint defects onto good images (B, 3, H, W) where `masks` (B, H, W), opacity in [0, 1], is above 0.

    `decoys` (B, H, W) bool: where decoys may be. `tables`: as in `anomalies.alter`.
    Draws are made on the CPU, so that every device gets the same.
    """
    batch, device = len(image), image.device
    draws = torch.rand(batch, 9, generator=generator)
    encoding = discrete.encode(image)
    drawn = discrete.decode(encoding.coarse_codes, encoding.fine_codes).float()
    change = torch.zeros_like(image)
    marked = masks.flatten(1).amax(1) > 0
    chosen = marked.nonzero().flatten()
    if len(chosen):
        picks = chosen.cpu()
        altered = _altered(
            discrete, encoding.coarse_features[chosen].float(), encoding.coarse_indices[chosen],
            image[chosen], encoding.fine_features[chosen].float(), encoding.fine_indices[chosen],
            masks[chosen] > 0, draws[picks], generator, ways, strength, skip_nearest, tables,
        )  # fmt: skip
        change[chosen] = _kept_tone(altered.float() - drawn[chosen], masks[chosen], draws[picks], ways)
    grey = (image.amax(1) - image.amin(1)).flatten(1).amax(1) < GREY  # (B,)
    change = torch.where(grey[:, None, None, None], change.mean(1, keepdim=True), change)
    low, high = ways.opacity
    opacity = (low + (high - low) * draws[:, 0]).to(device)[:, None, None, None]
    laid = change * opacity * masks.unsqueeze(1)
    visible: Tensor | float = ways.visible
    if ways.contrast is not None:
        unit = grain(image)  # (B,)
        coherent = (draws[:, 2] < ways.shift + ways.blend).to(device)
        draw = torch.rand(batch, generator=generator).to(device)
        laid = _with_contrast(laid, masks, unit, coherent, draw, ways.contrast)
        visible = (ways.visible * unit)[:, None, None]
    marks, size = masks > FADED, laid.abs().mean(1)  # (B, H, W)
    if ways.own_pixels or ways.contrast is not None:
        seen = _local_mean(size * marks, 7) / _local_mean(marks.float(), 7).clamp_min(1e-6)
    else:
        seen = _local_mean(size, 3)
    with_decoys = decoys & (draws[:, 1] < ways.decoy).to(device)[:, None, None]
    own = torch.where(grey[:, None, None, None], drawn.mean(1, keepdim=True), drawn)
    repainted = torch.where(with_decoys.unsqueeze(1), own, image)
    mask = (seen > visible) & marks
    return Painted((repainted + laid).clamp(0, 1), mask, encoding, (masks > 0) & ~mask)


def _local_mean(x: Tensor, side: int) -> Tensor:
    """(B, H, W) -> the same, each pixel the mean over a square around it."""
    return nn.functional.avg_pool2d(x.unsqueeze(1), side, stride=1, padding=side // 2).squeeze(1)


def grain(image: Tensor) -> Tensor:
    """How rough a surface is: deviation of images (B, 3, H, W) in [0, 1] from their local mean, (B,), at least 0.01."""
    grey = image.mean(1, keepdim=True)
    local = nn.functional.avg_pool2d(grey, GRAIN_SIDE, stride=1, padding=GRAIN_SIDE // 2, count_include_pad=False)
    return (grey - local).square().mean((1, 2, 3)).sqrt().clamp_min(0.01)


def _with_contrast(
    laid: Tensor, masks: Tensor, unit: Tensor, coherent: Tensor, draw: Tensor, contrast: tuple[float, float]
) -> Tensor:
    """Changes (B, 3, H, W) under masks (B, H, W), raised to a contrast in units of `unit` (B,); `draw` (B,) in [0, 1).

    Of `coherent` ones (B,) bool the mean is raised, and the change of texture stays as it is drawn; of others all is.
    What covers a large part of the image is as plain with less. What is plainer already stays as it is.
    """
    low, high = contrast
    area = masks.sum((1, 2)).clamp_min(1)
    share = area / masks[0].numel()
    large = (LARGE / share).clamp(max=1).pow(0.4).clamp_min(0.4)
    wanted = (low * (high / low) ** draw * large * unit).clamp(max=STRONGEST)
    mean = laid.sum((2, 3)) / area[:, None]  # (B, 3)
    tone = mean[:, :, None, None] * masks.unsqueeze(1)
    toned = tone * (wanted / mean.abs().mean(1).clamp_min(FAINTEST)).clamp_min(1)[:, None, None, None] + (laid - tone)
    size = laid.abs().mean(1).sum((1, 2)) / area  # (B,)
    scaled = laid * (wanted / size.clamp_min(FAINTEST)).clamp_min(1)[:, None, None, None]
    return torch.where(coherent[:, None, None, None], toned, scaled)


def _kept_tone(change: Tensor, masks: Tensor, draws: Tensor, ways: Ways) -> Tensor:
    """The change (b, 3, H, W), less its mean under the mask in half of the transplants."""
    moved = ways.shift + ways.blend
    kept = (draws[:, 2] >= moved) & (draws[:, 2] < moved + ways.transplant) & (draws[:, 8] < 0.5)
    weight = masks.unsqueeze(1)
    mean = (change * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(kept.to(change.device)[:, None, None, None], change - mean, change)


def _altered(
    discrete: DiscreteModel,
    coarse_features: Tensor,
    coarse_indices: Tensor,
    image: Tensor,
    fine_features: Tensor,
    fine_indices: Tensor,
    mask: Tensor,
    draws: Tensor,
    generator: torch.Generator,
    ways: Ways,
    strength: tuple[float, float],
    skip_nearest: float,
    tables: RankTables | None,
) -> Tensor:
    """What the altered codes of some images draw: (b, 3, H, W). `draws` (b, 9) in [0, 1), on the CPU."""
    device = image.device
    moved_at = ways.shift + ways.blend
    deformed_at = moved_at + ways.transplant
    resampled = draws[:, 2] >= deformed_at + ways.deform
    coherent, blended = draws[:, 2] < moved_at, draws[:, 2] >= ways.shift
    transplanted = ~resampled & ~coherent & (draws[:, 2] < deformed_at)
    deformed = ~resampled & ~coherent & ~transplanted
    grids = draws[:, 3].masked_fill(transplanted | deformed, 0.0)  # on both grids
    coarse_on, fine_on = (grids < 0.75).to(device), ((grids < 0.5) | (grids >= 0.75)).to(device)
    if ways.grids != "both":
        coarse_on, fine_on = (torch.full_like(coarse_on, ways.grids == grid) for grid in ("coarse", "fine"))
    low, high = strength
    codes = []
    donor = torch.randperm(len(image), generator=generator)  # whose codes are used: images of the same object
    coarse_table, fine_table = tables if tables else (None, None)
    bends = torch.randn(len(image), 2, BENDS, BENDS, generator=generator) if deformed.any() else None
    for book, features, indices, cell, on, column, table in (
        (discrete.coarse_codebook, coarse_features, coarse_indices, COARSE, coarse_on, 4, coarse_table),
        (discrete.fine_codebook, fine_features, fine_indices, FINE, fine_on, 5, fine_table),
    ):
        cells = pool_mask(mask, cell) & on[:, None, None]
        strengths = low + (high - low) * draws[:, column]
        alone = cells & resampled.to(device)[:, None, None]
        changed = replace_codes(book, features, indices, alone, strengths, generator, skip_nearest, table)
        elsewhere = cells & transplanted.to(device)[:, None, None]
        changed = torch.where(elsewhere, _elsewhere(indices, cell, donor, draws), changed)
        if bends is not None:
            bent = cells & deformed.to(device)[:, None, None]
            changed = torch.where(bent, _deformed(indices, cell, bends, draws[:, 4]), changed)
        moved = _moved(book, features, indices, donor, blended, draws)
        together = cells & coherent.to(device)[:, None, None]
        image_of, row, across = together.nonzero(as_tuple=True)
        if len(image_of):
            changed = changed.clone()
            changed[image_of, row, across] = book.distances(moved[image_of, :, row, across]).argmin(1)
        codes.append(book.lookup(changed))
    return discrete.decode(codes[0], codes[1])


def _moved(book: Codebook, features: Tensor, indices: Tensor, donor: Tensor, blended: Tensor, draws: Tensor) -> Tensor:
    """Features (b, D, h, w) of the coherent ways: blended towards one code of a donor image, or shifted."""
    _, _, height, width = features.shape
    place = (draws[:, 6] * height).long(), (draws[:, 7] * width).long()
    other = (draws[:, 7] * height).long(), (draws[:, 6] * width).long()
    donor = donor.to(indices.device)
    one = book.vectors[indices[donor, place[0].to(indices.device), place[1].to(indices.device)]].float()  # (b, D)
    two = book.vectors[indices[:, other[0].to(indices.device), other[1].to(indices.device)].diagonal()].float()
    amount = (draws[:, 4] * 0.7 + 0.3).to(features.device)[:, None, None, None]
    blend = torch.lerp(features, one[:, :, None, None].expand_as(features), amount)
    shift = features + 2 * amount * (one - two)[:, :, None, None]
    return torch.where(blended.to(features.device)[:, None, None, None], blend, shift)


def _elsewhere(indices: Tensor, cell: int, donor: Tensor, draws: Tensor) -> Tensor:
    """Codes (b, h, w) of the donors, mirrored or not, moved by a quarter to three quarters of the height and width.

    Both grids, of cells of `cell` pixels, move alike: by whole coarse cells.
    """
    fineness = COARSE // cell
    found = []
    for index, (down, across, flip_down, flip_across) in enumerate(draws[:, 4:8].tolist()):
        codes = indices[int(donor[index])]
        axes = [axis for axis, flip in ((0, flip_down), (1, flip_across)) if flip < 0.5]
        sides = zip(codes.shape, (down, across), strict=True)
        steps = [fineness * round(side / fineness * (0.25 + part / 2)) for side, part in sides]
        found.append(codes.flip(axes).roll(steps, (0, 1)))
    return torch.stack(found)


def _deformed(indices: Tensor, cell: int, bends: Tensor, amount: Tensor) -> Tensor:
    """Codes (b, h, w), each of the place that a smooth field says: `bends` (b, 2, BENDS, BENDS), rows and columns.

    `amount` (b,) in [0, 1): how far, up to FARTHEST coarse cells where a bend is 1; at least a quarter of it. Both
    grids, of cells of `cell` pixels, move alike.
    """
    height, width = indices.shape[-2:]
    far = (COARSE // cell) * FARTHEST * (0.25 + 0.75 * amount)
    field = nn.functional.interpolate(bends, size=(height, width), mode="bicubic", align_corners=True)
    field = (field * far[:, None, None, None]).round().long().to(indices.device)
    rows = (torch.arange(height, device=indices.device)[:, None] + field[:, 0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=indices.device) + field[:, 1]).clamp(0, width - 1)
    return indices.flatten(1).gather(1, (rows * width + columns).flatten(1)).reshape(indices.shape)
