"""Feature-level anomalies: replace codes under a mask by others at a controlled distance (DSR §3.3; METHOD 2).

Same rule as the authors', who sort all K distances of every cell, image by image, on the CPU; here only the masked
cells of the batch are sorted, in blocks, on whatever device the codes are.

Axes: B images, D code length, H rows, W columns of a grid, M masked cells, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flawmap.model.codebook import Codebook
from flawmap.model.discrete import COARSE, FINE, DiscreteModel

CELLS_PER_BLOCK = 1024  # bounds the sorted distances at 1024 x K numbers


class RankTables(NamedTuple):
    """Per grid, for each code all codes by distance to it, itself first: (K, K) int64 or smaller.

    With these a code of a wanted rank is looked up, where the exact rule sorts K distances for every cell. Ranks then
    count from a cell's code instead of from its feature before quantization; the two lie close together.
    """

    coarse: Tensor
    fine: Tensor


class Altered(NamedTuple):
    """Codes with a defect, and where it is.

    coarse_codes (B, D, H/8, W/8), fine_codes (B, D, H/4, W/4); clean_coarse, clean_fine of the same shapes: what
    the restriction should give back; mask (B, H, W) bool at image size: the mask pooled to the coarser altered grid
    and blown back up.
    """

    coarse_codes: Tensor
    fine_codes: Tensor
    clean_coarse: Tensor
    clean_fine: Tensor
    mask: Tensor


def rank_bounds(strength: Tensor, codes: int, skip_nearest: float) -> tuple[int, Tensor]:
    """First and last rank drawn (both included), ranks counted from 0 at the nearest code.

    first = floor(skip_nearest * K); last = min(floor(strength * K) + 1, K - 1), per element of `strength`.
    """
    first = int(skip_nearest * codes)
    last = ((strength * codes).floor().long() + 1).clamp(max=codes - 1)
    return first, last.clamp(min=first)


@torch.no_grad()
def rank_tables(discrete: DiscreteModel) -> RankTables:
    """The tables of a frozen discrete model; 2 bytes times K squared each."""
    kind = torch.int16 if discrete.coarse_codebook.size <= 2**15 else torch.int32
    tables = []
    for book in (discrete.coarse_codebook, discrete.fine_codebook):
        blocks = torch.split(book.vectors.float(), CELLS_PER_BLOCK)
        tables.append(torch.cat([book.distances(block).argsort(dim=1).to(kind) for block in blocks]))
    return RankTables(*tables)


def replace_codes(
    codebook: Codebook,
    features: Tensor,
    indices: Tensor,
    mask: Tensor,
    strength: Tensor,
    generator: torch.Generator,
    skip_nearest: float = 0.05,
    table: Tensor | None = None,
) -> Tensor:
    """Indices (B, H, W) with those under `mask` (B, H, W) replaced.

    For each masked cell the codes are ranked by distance to its *unquantized* feature (B, D, H, W), and one is
    drawn uniformly among the ranks of `rank_bounds` for the image's `strength` (B,). Other cells are untouched.
    With a `table` (K, K) of `rank_tables`, ranks are those by distance to the cell's code in `indices`.
    The draws are made on the CPU, so that every device gets the same.
    """
    image, row, column = mask.nonzero(as_tuple=True)
    altered = indices.clone()
    if len(image) == 0:
        return altered
    first, last = rank_bounds(strength.cpu()[image.cpu()], codebook.size, skip_nearest)  # (M,)
    draws = torch.rand(len(last), generator=generator, dtype=torch.float64)
    ranks = (first + (draws * (last - first + 1)).long()).to(features.device)
    if table is not None:
        altered[image, row, column] = table[indices[image, row, column], ranks].long()
        return altered
    cells = features[image, :, row, column].float()  # (M, D)
    chosen = [
        # (block, K), nearest first
        codebook.distances(block).argsort(dim=1).gather(1, rank.unsqueeze(1)).squeeze(1)
        for block, rank in zip(torch.split(cells, CELLS_PER_BLOCK), torch.split(ranks, CELLS_PER_BLOCK), strict=True)
    ]
    altered[image, row, column] = torch.cat(chosen)
    return altered


def pool_mask(mask: Tensor, cell: int) -> Tensor:
    """(B, H, W) bool -> (B, H/cell, W/cell) bool: a cell is masked when any of its pixels is."""
    return torch.nn.functional.max_pool2d(mask.float().unsqueeze(1), cell).squeeze(1) > 0


def blow_up(mask: Tensor, cell: int) -> Tensor:
    """(B, h, w) bool -> (B, h*cell, w*cell) bool, nearest neighbour."""
    return mask.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


@torch.no_grad()
def alter(
    discrete: DiscreteModel,
    image: Tensor,
    mask: Tensor,
    generator: torch.Generator,
    *,
    strength: tuple[float, float] = (0.2, 1.0),
    skip_nearest: float = 0.05,
    both_grids: float = 0.5,
    tables: RankTables | None = None,
    grids: str = "both",
    quantize: bool = True,
) -> Altered:
    """Encode good images (B, 3, H, W) and alter their codes under `mask` (B, H, W) bool.

    Per image, with probability `both_grids` both grids are altered: the fine features are recomputed from the
    altered coarse codes before they are altered in turn. Otherwise one grid alone, ½ each; the other keeps its clean
    codes. A strength U(strength) is drawn per image and grid. `tables` replace the sorting of distances.

    Ablations: with `grids` "coarse" or "fine" that grid alone is altered in every image; without `quantize` cells that
    are not altered keep their features, and so does what is clean.
    """
    batch = len(image)
    shared = discrete.fine_encoder(image)
    coarse_features = discrete.to_coarse(discrete.coarse_encoder(shared))
    coarse = discrete.coarse_codebook(coarse_features)
    fine_features = discrete.fine_features(shared, coarse.codes)
    fine = discrete.fine_codebook(fine_features)

    draws = torch.rand(batch, 4, generator=generator)
    low, high = strength
    strengths = low + (high - low) * draws[:, :2]  # per image: coarse, fine
    both = (draws[:, 2] < both_grids).to(image.device)
    coarse_alone = ~both & (draws[:, 3] < 0.5).to(image.device)
    if grids != "both":
        both, coarse_alone = torch.zeros_like(both), torch.full_like(both, grids == "coarse")
    fine_alone = ~both & ~coarse_alone
    per_image = (slice(None), None, None)

    coarse_mask = pool_mask(mask, COARSE) & ~fine_alone[per_image]
    coarse_indices = replace_codes(
        discrete.coarse_codebook, coarse_features, coarse.indices, coarse_mask, strengths[:, 0], generator,
        skip_nearest, tables.coarse if tables else None,
    )  # fmt: skip
    coarse_codes = discrete.coarse_codebook.lookup(coarse_indices)

    start_features, start_indices = fine_features.float(), fine.indices
    again = both & coarse_mask.flatten(1).any(1)
    if again.any():
        recomputed = discrete.fine_features(shared[again], coarse_codes[again]).float()
        start_features, start_indices = start_features.clone(), start_indices.clone()
        start_features[again] = recomputed
        start_indices[again] = discrete.fine_codebook.nearest(recomputed)
    fine_mask = pool_mask(mask, FINE) & ~coarse_alone[per_image]
    fine_indices = replace_codes(
        discrete.fine_codebook, start_features, start_indices, fine_mask, strengths[:, 1], generator,
        skip_nearest, tables.fine if tables else None,
    )  # fmt: skip
    fine_codes = discrete.fine_codebook.lookup(fine_indices)

    clean_coarse, clean_fine = coarse.codes, fine.codes
    if not quantize:
        coarse_codes = torch.where(coarse_mask.unsqueeze(1), coarse_codes, coarse_features.to(coarse_codes.dtype))
        fine_codes = torch.where(fine_mask.unsqueeze(1), fine_codes, start_features.to(fine_codes.dtype))
        clean_coarse, clean_fine = coarse_features, fine_features

    # The coarser altered grid says how exactly the defect's place is known.
    target = torch.where(
        fine_alone[per_image], blow_up(pool_mask(mask, FINE), FINE), blow_up(pool_mask(mask, COARSE), COARSE)
    )
    return Altered(coarse_codes, fine_codes, clean_coarse, clean_fine, target)
