"""DSR's idea on pretrained features: codebooks, training defects, restriction and detection (Zavrtanik et al. 2022).

Features are those of the memory bank `high`, whitened: 256 numbers a cell of 1/8. They are quantized twice, the mean of
2 by 2 cells by a coarse codebook and what is left of a cell by a fine one. A defect adds to a cell the difference of
another code and its own, so that what quantization leaves of real features stays in it; along its outline it fades.
Distractors are the same place of another good photo, not called defects.

Axes: B crops, C components, h, w cells, N cells, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.data.perlin import perlin_masks
from flawmap.model.anomalies import replace_codes
from flawmap.model.codebook import Codebook
from flawmap.model.familiarity import Density

SCALES = (9, 5, 3, 1)  # cells along the side of a mean of score maps
GROUPS = 16  # of components, over which the amount of a difference is averaged
CLIP = 12.0  # deviations; natural photos lie far outside what a part's features vary by


class Books(NamedTuple):
    """Codebook of means of 2 by 2 cells, and of what is left of each cell; natural photos' cells (N, C)."""

    coarse: Codebook
    fine: Codebook
    natural: Tensor


class Painting(NamedTuple):
    """How training defects are made.

    `kind`: "codes" (resampled), "noise" (Gaussian) or "natural" (differences of natural photos' cells). `strength`:
    bounds of how many times the difference of codes is added, of the noise's deviation, or of the root mean square of
    what is added, drawn uniformly in the logarithm. `distractors`: share of crops with some. `ranks`: bounds of the
    share of the codebook that is drawn from.
    """

    kind: str
    strength: tuple[float, float]
    distractors: float
    ranks: tuple[float, float] = (0.2, 1.0)


class Painted(NamedTuple):
    """Features (B, C, h, w) with defects, what a restriction should give back, and masks (B, h, w) bool of defects and
    of cells that are neither good nor defective."""

    features: Tensor
    clean: Tensor
    mask: Tensor
    unsure: Tensor


def k_means(cells: Tensor, codes: int, generator: torch.Generator, rounds: int = 12) -> Tensor:
    """Centres (K, C) of cells (N, C), from random ones of them; an empty one moves onto a random cell."""
    centres = cells[torch.randperm(len(cells), generator=generator)[:codes]].clone()
    for _ in range(rounds):
        lengths, opposite = centres.square().sum(1), centres.t()
        found = [torch.addmm(lengths, some, opposite, alpha=-2.0).argmin(1) for some in torch.split(cells, 4096)]
        nearest = torch.cat(found)
        counts = torch.zeros(len(centres)).index_add_(0, nearest, torch.ones(len(cells)))
        sums = torch.zeros_like(centres).index_add_(0, nearest, cells)
        spare = cells[torch.randint(len(cells), (len(centres),), generator=generator)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], spare)
    return centres


def quadrupled(grid: Tensor, like: Tensor) -> Tensor:
    """(B, C, h / 2, w / 2) -> (B, C, h, w): each cell four times."""
    return nn.functional.interpolate(grid, scale_factor=2)[..., : like.shape[-2], : like.shape[-1]]


def halves(features: Tensor) -> Tensor:
    """Means of 2 by 2 cells, of those that are there."""
    return nn.functional.avg_pool2d(features, 2, ceil_mode=True, count_include_pad=False)


def learn_books(good: Tensor, natural: Tensor, codes: tuple[int, int], generator: torch.Generator) -> Books:
    """Codebooks of crops of good photos (B, C, h, w), a quarter of the codes from natural photos' cells (N, C)."""
    found = []
    grids = (halves(good), good - quadrupled(halves(good), good))
    for number, (grid, count) in enumerate(zip(grids, codes, strict=True)):
        cells = grid.permute(0, 2, 3, 1).flatten(0, 2)
        cells = cells[torch.randperm(len(cells), generator=generator)[:24_000]]
        other = natural if number == 0 else natural - natural.roll(1, 0)  # neighbours in a photo
        book = Codebook(count, cells.shape[1])
        kept = count - count // 4
        book.vectors = torch.cat([k_means(cells, kept, generator), k_means(other, count - kept, generator)])
        found.append(book)
    return Books(found[0], found[1], natural)


@torch.no_grad()
def dequantized(books: Books, features: Tensor) -> Tensor:
    """The general reconstruction: what the codes of both grids say, (B, C, h, w)."""
    upper = quadrupled(books.coarse(halves(features)).codes, features)
    found: Tensor = upper + books.fine(features - upper).codes
    return found


@torch.no_grad()
def paint(books: Books, crops: Tensor, others: Tensor, painting: Painting, generator: torch.Generator) -> Painted:
    """Crops (B, C, h, w) of good photos with defects; `others`: the same places of other good photos."""
    batch, _, height, width = crops.shape

    def masks(empty: float) -> Tensor:
        side = 8 * max(height, width)
        drawn = perlin_masks(batch, side, side, generator, octaves=5, empty=empty)
        return (nn.functional.avg_pool2d(drawn[:, None].float(), 8)[:, 0] > 0.4)[:, :height, :width]

    place = masks(1 - painting.distractors)[:, None].float()
    clean = torch.lerp(crops, others, nn.functional.avg_pool2d(place, 3, 1, 1))
    mask = masks(0.3)
    share = _around(mask[:, None].float())
    low, high = painting.strength
    draws = torch.rand(batch, 2, generator=generator)
    if painting.kind == "noise":
        change = torch.randn(crops.shape, generator=generator)
    elif painting.kind == "natural":
        change = _smoothed(_of_natural(books, clean, generator), mask, draws[:, 1] < 0.5)
        change = change / change.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    else:
        change = _smoothed(_resampled(books, clean, mask, painting.ranks, generator), mask, draws[:, 1] < 0.5)
    change = change * (low * (high / low) ** draws[:, 0])[:, None, None, None]
    changed = (clean + share * change).clamp(-CLIP, CLIP)
    return Painted(changed, clean, mask, (share[:, 0] > 0) & ~mask)


def _around(mask: Tensor) -> Tensor:
    """1 within the mask (B, 1, h, w), and beside it the share of its cells about a cell."""
    return torch.maximum(mask, nn.functional.avg_pool2d(mask, 3, 1, 1))


def _smoothed(change: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
    """Changes as means over the changed cells about each; in images that are not `chosen` one change for all."""
    weights = mask[:, None].float()
    mean = nn.functional.avg_pool2d(change * weights, 3, 1, 1)
    mean = mean / nn.functional.avg_pool2d(weights, 3, 1, 1).clamp_min(1 / 9)
    return torch.where(chosen[:, None, None, None], mean, change)


def _resampled(
    books: Books, features: Tensor, mask: Tensor, ranks: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Other codes less a cell's own, (B, C, h, w), of both grids or of either. Half of the images: one material for
    all of the mask, that is the code of one cell of it."""
    batch = len(features)
    draws = torch.rand(batch, 4, generator=generator)
    low, high = ranks
    strengths = low + (high - low) * draws[:, :2]
    one = draws[:, 3] < 0.5
    changes = []
    grid = halves(features)
    places = nn.functional.max_pool2d(mask[:, None].float(), 2, ceil_mode=True)[:, 0] > 0
    for number, (book, cells, at) in enumerate(
        ((books.coarse, grid, places), (books.fine, features - quadrupled(grid, features), mask))
    ):
        own = book.nearest(cells)
        new = replace_codes(book, cells, own, at, strengths[:, number], generator)
        for image in one.nonzero().flatten().tolist():
            inside = new[image][at[image]]
            if len(inside):
                new[image][at[image]] = inside[int(torch.randint(len(inside), (1,), generator=generator))]
        changes.append(book.lookup(new) - book.lookup(own))
    kinds = draws[:, 2, None, None, None]
    return quadrupled(changes[0], features) * (kinds < 0.75) + changes[1] * ((kinds < 0.5) | (kinds >= 0.75))


def _of_natural(books: Books, features: Tensor, generator: torch.Generator) -> Tensor:
    """Differences of two cells of natural photos, (B, C, h, w); in half of the images one for all cells."""
    grid = halves(features)
    shape = (len(grid), *grid.shape[-2:])
    one = torch.rand(len(grid), generator=generator) < 0.5
    found = []
    for _ in range(2):
        drawn = torch.randint(len(books.natural), shape, generator=generator)
        drawn = torch.where(one[:, None, None], drawn[:, :1, :1], drawn)
        found.append(books.natural[drawn].permute(0, 3, 1, 2))
    return quadrupled(found[0] - found[1], features)


class Restriction(nn.Module):
    """A U-shaped network without skip connections: features (B, C, h, w) -> those of good parts."""

    def __init__(self, channels: int, widths: tuple[int, int, int] = (64, 96, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.enter = nn.Sequential(nn.Conv2d(channels, first, 1), nn.GELU(), _convolution(first, first))
        self.down = nn.Sequential(_convolution(first, second), _convolution(second, second))
        self.middle = nn.Sequential(_convolution(second, third), _convolution(third, third))
        self.up2 = _convolution(third, second)
        self.up1 = _convolution(second, first)
        self.out = nn.Sequential(_convolution(first, first), nn.Conv2d(first, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        half = halves(self.enter(features))
        quarter = halves(self.down(half))
        x = nn.functional.interpolate(self.middle(quarter), size=half.shape[-2:], mode="bilinear")
        x = nn.functional.interpolate(self.up2(x), size=features.shape[-2:], mode="bilinear")
        restricted: Tensor = self.out(self.up1(x))
        return restricted


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate"), nn.GELU())


class Head(nn.Module):
    """Logits (B, 2, h, w), the second "defect", from what is known of each cell; `kernel` of its second layer.

    With `anchored` the last channel that comes in is the distance from the memory bank, and what is learnt is a
    correction of it: log-odds start as `gain` times what it is above `level`.
    """

    def __init__(self, inputs: int, hidden: int = 64, kernel: int = 3, anchored: bool = False) -> None:
        super().__init__()
        last = nn.Conv2d(hidden // 2, 2, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden // 2, kernel, padding=kernel // 2, padding_mode="replicate"),
            nn.GELU(),
            last,
        )
        self.anchored = anchored
        self.gain, self.level = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(0.0))
        if anchored:
            nn.init.zeros_(last.weight)

    def forward(self, known: Tensor) -> Tensor:
        logits: Tensor = self.layers(known)
        if not self.anchored:
            return logits
        odds = self.gain * (known[:, -1:] - self.level)
        return logits + torch.cat([torch.zeros_like(odds), odds], 1)


@torch.no_grad()
def nearest_patch(density: Density, white: Tensor, owners: Tensor, without: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest good patch of each cell (B, C, h, w), and the logarithm of the mean squared distance (B, 1, h, w).

    `owners` (N,): the photos that patches are from; image i is not compared with those of photo `without[i]`.
    """
    memory = density.memory
    assert memory is not None
    patches, distances = [], []
    for number, image in enumerate(white):
        cells = image.flatten(1).t()
        squares = memory.square().sum(1)
        if without is not None:
            squares = squares.masked_fill(owners == without[number], torch.inf)
        least, nearest = torch.addmm(squares, cells, memory.t(), alpha=-2.0).min(1)
        mean = (least + cells.square().sum(1)).clamp_min(0) / memory.shape[1]
        patches.append(memory[nearest].t().reshape(image.shape))
        distances.append(torch.log(mean + density.floor).view(1, *image.shape[1:]))
    return torch.stack(patches), torch.stack(distances)


def amounts(difference: Tensor) -> Tensor:
    """Mean amount of a difference (B, C, h, w) over groups of components that vary alike much: (B, GROUPS, h, w)."""
    batch, _, height, width = difference.shape
    return torch.log(difference.abs().reshape(batch, GROUPS, -1, height, width).mean(2) + 0.05)


def at_scales(maps: Tensor) -> Tensor:
    """Score maps (B, S, h, w) as means over SCALES cells: (B, S * scales, h, w)."""
    means = [nn.functional.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False) for side in SCALES]
    return torch.cat(means, 1)
