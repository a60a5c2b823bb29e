"""Codebook of a quantized feature space, learned by exponential moving averages (van den Oord et al. 2017, app. A.1).

Differs from the usual programs: the nearest code is found by one matrix product per block of cells and the
statistics by a scatter-add, so that no one-hot matrix of cells by codes exists; dead codes are moved onto features
of the batch.

Axes: B images, D code length, H rows, W columns of the grid, N = B*H*W cells, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

CELLS_PER_BLOCK = 2048  # bounds the distance matrix at 2048 x K numbers, 32 MiB for K = 4096 in float32
DISTANCES_AT_HAND = 1 << 20  # on a CPU: as many at a time stay in its cache, 4 MiB


class Quantized(NamedTuple):
    """Codes of a grid: `indices` (B, H, W) int64 in [0, K), and their vectors `codes` (B, D, H, W)."""

    indices: Tensor
    codes: Tensor


class Codebook(nn.Module):
    """K vectors of length D, with the running counts and sums they are the means of.

    Buffers: `vectors` (K, D); `counts` (K,), `sums` (K, D), both moving averages, used in pretraining alone.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, length: int) -> None:
        super().__init__()
        vectors = torch.randn(codes, length)
        self.register_buffer("vectors", vectors)
        # Frozen models need the vectors alone: the statistics are left out of bundles.
        self.register_buffer("counts", torch.zeros(codes), persistent=False)
        self.register_buffer("sums", vectors.clone(), persistent=False)

    @property
    def size(self) -> int:
        """Number of codes K."""
        return self.vectors.shape[0]

    def distances(self, cells: Tensor) -> Tensor:
        """Squared distance of each cell (N, D) to each code, short of the cell's own |x|^2: (N, K).

        The term left out is the same for every code of a cell, so ranks are unchanged.
        """
        vectors = self.vectors.to(cells.dtype)
        return torch.addmm(vectors.square().sum(1), cells, vectors.t(), alpha=-2.0)

    def nearest(self, features: Tensor) -> Tensor:
        """Index of the nearest code of each cell: (B, D, H, W) -> (B, H, W) int64."""
        cells = cells_of(features)  # (N, D)
        batch, _, height, width = features.shape
        plain = type(cells) is Tensor and not torch.compiler.is_compiling()  # not one that only traces or counts
        if plain and cells.device.type == "cpu" and cells.dtype == torch.float32:
            return self._nearest_on_cpu(cells.detach()).view(batch, height, width)
        blocks = [self.distances(block).argmin(1) for block in torch.split(cells, CELLS_PER_BLOCK)]
        return torch.cat(blocks).view(batch, height, width)

    def _nearest_on_cpu(self, cells: Tensor) -> Tensor:
        """Nearest codes of cells (N, D) float32, (N,) int64, with distances kept in the processor's cache.

        NumPy's argmin is vectorised and PyTorch's is not; both take the first of equal distances. A third of the time
        (docs/speed.md).
        """
        lengths, opposite = self.vectors.square().sum(1), self.vectors.t()
        rows = max(1, DISTANCES_AT_HAND // self.size)
        distances = torch.empty(min(rows, len(cells)), self.size)
        found = torch.empty(len(cells), dtype=torch.int64)
        for first in range(0, len(cells), rows):
            block = cells[first : first + rows]
            some = torch.addmm(lengths, block, opposite, alpha=-2.0, out=distances[: len(block)])
            found[first : first + rows] = torch.from_numpy(some.numpy().argmin(1))
        return found

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors of the codes: (B, H, W) int64 -> (B, D, H, W)."""
        return nn.functional.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def forward(self, features: Tensor) -> Quantized:
        """Replace each cell by its nearest code; gradients pass straight through to `features`."""
        with torch.autocast(features.device.type, enabled=False):
            full = features.float()  # nearest codes are chosen in full precision
            indices = self.nearest(full.detach())
            codes = self.lookup(indices)
            if features.requires_grad:
                codes = full + (codes - full).detach()
        return Quantized(indices, codes)

    @torch.no_grad()
    def learn(self, features: Tensor, indices: Tensor, decay: float = 0.99, epsilon: float = 1e-5) -> None:
        """Move the codes towards the means of the features assigned to them.

        Laplace smoothing `epsilon` keeps the division defined. Under torch.distributed the statistics of all
        processes are summed first, so that every process holds the same codebook (DDP would broadcast the
        buffers of one).
        """
        cells = cells_of(features).float()
        flat = indices.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
        sums = torch.zeros_like(self.sums).index_add_(0, flat, cells)
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.mul_(decay).add_(counts, alpha=1 - decay)
        self.sums.mul_(decay).add_(sums, alpha=1 - decay)
        total = self.counts.sum()
        smoothed = (self.counts + epsilon) / (total + self.size * epsilon) * total
        self.vectors.copy_(self.sums / smoothed.clamp_min(epsilon).unsqueeze(1))

    @torch.no_grad()
    def revive(self, features: Tensor, generator: torch.Generator, below: float = 0.1, fresh: float = 0.3) -> int:
        """Move dead codes onto random cells of the batch; returns how many.

        A code is dead when its running count is under `below` times what it would be if all codes were used alike;
        a moved one starts at `fresh` times that, and so has some time to win cells before it is judged again.
        Under torch.distributed the first process draws the cells for all.
        """
        cells = cells_of(features).float()
        alike = self.counts.sum().clamp_min(1.0) / self.size
        dead = (self.counts < below * alike).nonzero().flatten()
        if len(dead) == 0:
            return 0
        pick = torch.randint(len(cells), (len(dead),), generator=generator).to(cells.device)
        moved = cells[pick]
        if dist.is_initialized():
            dist.broadcast(moved, 0)
        self.vectors[dead] = moved
        self.sums[dead] = moved * (fresh * alike)
        self.counts[dead] = fresh * alike
        return len(dead)

    @torch.no_grad()
    def start(self, features: Tensor, generator: torch.Generator) -> None:
        """Put every code on a random cell of the batch, with the count of codes that are used alike."""
        self.counts.zero_()
        self.revive(features, generator)
        alike = features.numel() / features.shape[1] / self.size
        self.counts.fill_(alike)
        self.sums.copy_(self.vectors * alike)


def cells_of(features: Tensor) -> Tensor:
    """(B, D, H, W) -> (N, D), rows in the order of images, then rows, then columns."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
